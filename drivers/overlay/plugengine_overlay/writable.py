"""Make and remove a container's writable layer, and what its layers need to be mounted."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.errors import DriverError, NoSpaceError
from plugengine.kernel.attributes import getxattr, listxattr, setxattr
from plugengine.model import HostPath, StorageRequest
from plugengine.trees.copy import id_outside, owner_outside
from plugengine.trees.remove import remove_tree
from plugengine.trees.whiteouts import STEERING

from plugengine_overlay import mounting, support

MAPPED_MOUNT = "mount"  # record "owners": the layers come from an id-mapped mount
MAPPED_COPY = "copy"  # they were copied with their owners changed
PLAIN = "plain"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT_MODE = 0o755


def make(request: StorageRequest) -> dict[str, str]:
    """Make the directories and return the record; on failure nothing is left.

    Raises:
        DriverError: A layer is missing, or the kernel refuses something.
        NoSpaceError: The filesystem is full.
    """
    try:
        for name in (mounting.UPPER, mounting.WORK, mounting.EMPTY):
            os.makedirs(f"{request.directory}/{name}", 0o700, exist_ok=True)
        owners = _map_layers(request)
        _set_up_root(request)
        if not support.appends_layers():
            _link_layers(request, owners)
    except OSError as exc:
        remove(request)
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DriverError
        raise kind(
            f"prepare overlay for {request.container_id}: {exc.filename or request.directory}: "
            f"{os.strerror(exc.errno or 0).lower()}"
        ) from exc
    except BaseException:
        remove(request)
        raise
    return {"owners": owners}


def expected_owners(request: StorageRequest) -> str:
    """Return what a record not made yet will say of "owners", unless the kernel refuses; for who only wants to know."""
    return MAPPED_MOUNT if request.user_map is not None and request.chain else PLAIN


def remove(request: StorageRequest) -> None:
    """Remove all that `make` made; what is gone already is fine."""
    for name in (mounting.UPPER, mounting.WORK, mounting.EMPTY, mounting.LOWER, mounting.LINKS):
        remove_tree(f"{request.directory}/{name}")


def layers(request: StorageRequest, owners: str) -> tuple[HostPath, ...]:
    """Return the layers as they are mounted, lowest first."""
    if owners == MAPPED_MOUNT:
        return mounting.below_mapped_parent(request)
    if owners == MAPPED_COPY:
        return tuple(HostPath(_copy_of(request, index)) for index in range(len(request.chain)))
    return request.chain


def _map_layers(request: StorageRequest) -> str:
    if request.user_map is None or not request.chain:
        return PLAIN
    os.makedirs(f"{request.directory}/{mounting.LOWER}", 0o700, exist_ok=True)
    if support.maps_owners(request.directory, mounting.common_parent(request.chain), request.user_map):
        return MAPPED_MOUNT
    from plugengine.trees.copy import TreeCopy

    for index, layer in enumerate(request.chain):
        remove_tree(_copy_of(request, index))
        os.mkdir(_copy_of(request, index), 0o700)
        source, target = os.open(layer, _DIRECTORY), os.open(_copy_of(request, index), _DIRECTORY)
        try:
            TreeCopy(source, target, user_map=request.user_map, is_layer=True).run()
        finally:
            os.close(source)
            os.close(target)
    return MAPPED_COPY


def _copy_of(request: StorageRequest, index: int) -> str:
    return f"{request.directory}/{mounting.LOWER}/{index}"


def _link_layers(request: StorageRequest, owners: str) -> None:
    """Give the layers short names, topmost first, for kernels that take all names in one page."""
    links = f"{request.directory}/{mounting.LINKS}"
    remove_tree(links)
    os.mkdir(links, 0o700)
    for number, layer in enumerate(reversed(mounting.unique(layers(request, owners)))):
        os.symlink(layer, f"{links}/{number}")


def _set_up_root(request: StorageRequest) -> None:
    """Give the upper directory what the image's root has: of merged directories the upper one is what is seen."""
    maps = request.user_map
    upper = os.open(f"{request.directory}/{mounting.UPPER}", _DIRECTORY)
    try:
        if not request.chain:
            os.fchown(upper, id_outside(0, maps.uids) if maps else 0, id_outside(0, maps.gids) if maps else 0)
            os.fchmod(upper, _ROOT_MODE)
            return
        layer = os.open(request.chain[-1], _DIRECTORY)
        try:
            found = os.fstat(layer)
            os.fchown(upper, *owner_outside(found, maps))
            os.fchmod(upper, stat.S_IMODE(found.st_mode))
            for name in listxattr(layer):
                if not name.startswith(STEERING):
                    setxattr(upper, name, getxattr(layer, name))
            os.utime(upper, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(layer)
    finally:
        os.close(upper)
