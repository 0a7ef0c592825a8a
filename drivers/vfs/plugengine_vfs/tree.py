"""Make, mount and remove a container's copy of its layers."""

from __future__ import annotations

import errno
import os
from typing import Final

from plugengine.errors import DriverError, NoSpaceError
from plugengine.kernel.mount import MS_RDONLY
from plugengine.model import HostPath, Mount, Record, StorageRequest
from plugengine.mounts import maps_owners
from plugengine.trees.flatten import write_chain
from plugengine.trees.remove import remove_tree

_TREE: Final = "root"
_UNFINISHED: Final = "unfinished"
OWNERS: Final = "owners"  # key of the record: how a user map is put into effect
BY_MOUNT: Final = "mount"  # stored are the image's owners, the mount shows those of the user namespace
BY_COPY: Final = "copy"  # those of the user namespace are stored: the filesystem has no id-mapped mounts


def path(request: StorageRequest) -> HostPath:
    """Return where the copy is."""
    return HostPath(f"{request.directory}/{_TREE}")


def make(request: StorageRequest) -> dict[str, str]:
    """Copy the layers and return the record; on failure nothing is left.

    The copy gets its name when it is complete and, unless the container is ephemeral, on disk: a container that
    exists must not have empty files after a power cut.

    Raises:
        DriverError: A layer is missing, or the kernel refuses something.
        NoSpaceError: The filesystem is full.
    """
    unfinished = f"{request.directory}/{_UNFINISHED}"
    try:
        mapped = request.user_map is None or maps_owners(request.directory, request.user_map)
        if not os.path.isdir(path(request)):
            remove_tree(unfinished)
            os.makedirs(unfinished, 0o700)
            write_chain(request.chain, unfinished, user_map=None if mapped else request.user_map)
            if not request.ephemeral:
                _write_out(unfinished)
            os.rename(unfinished, path(request))
    except OSError as exc:
        remove(request)
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DriverError
        raise kind(
            f"copy layers for {request.container_id}: {exc.filename or request.directory}: "
            f"{os.strerror(exc.errno or 0).lower()}"
        ) from exc
    except BaseException:
        remove(request)
        raise
    return {OWNERS: BY_MOUNT if mapped else BY_COPY}


def mount(request: StorageRequest, record: Record) -> Mount:
    """Return the bind mount of the copy."""
    by_mount = record.get(OWNERS, BY_MOUNT) == BY_MOUNT
    return Mount(
        fstype="bind",
        source=path(request),
        target=request.target,
        flags=MS_RDONLY if request.read_only else 0,
        user_map=request.user_map if by_mount else None,
    )


def remove(request: StorageRequest) -> None:
    """Remove all that `make` made; what is gone already is fine."""
    for name in (_TREE, _UNFINISHED):
        remove_tree(f"{request.directory}/{name}")


def _write_out(directory: str) -> None:
    from plugengine.kernel.files import syncfs

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)
