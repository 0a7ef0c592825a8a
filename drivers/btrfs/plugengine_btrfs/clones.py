"""A container's snapshot: made, limited, measured, removed."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from plugengine.errors import DriverError, NoSpaceError, NotSupportedError
from plugengine.kernel import btrfs
from plugengine.model import HostPath, StorageRequest, Usage
from plugengine.mounts import maps_owners
from plugengine.trees.remove import remove_tree

from plugengine_btrfs import bases, limits, subvolumes

_SNAPSHOT: Final = "root"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def path(request: StorageRequest) -> HostPath:
    """Return where the snapshot is."""
    return HostPath(f"{request.directory}/{_SNAPSHOT}")


def make(request: StorageRequest) -> dict[str, Any]:
    """Take the snapshot and return the record; on failure nothing is left but what later containers may share.

    Raises:
        DriverError: A layer is missing, or the kernel refuses something.
        NoSpaceError: The filesystem is full.
        NotSupportedError: The kernel cannot show mapped owners.
    """
    size = request.options["size"]
    if request.user_map is not None and not maps_owners(request.directory, request.user_map):
        raise NotSupportedError(
            f"storage of {request.container_id}: btrfs shows mapped owners since Linux 5.15, which --userns needs",
            hint="choose another with --storage",
        )
    try:
        _snapshot(request)
        if size:
            limits.put(path(request), size)
    except OSError as exc:
        remove(request)
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DriverError
        raise kind(
            f"take a snapshot for {request.container_id}: {exc.filename or request.directory}: "
            f"{os.strerror(exc.errno or 0).lower()}"
        ) from exc
    except BaseException:
        remove(request)
        raise
    return {"size": size} if size else {}


def usage(request: StorageRequest) -> Usage:
    """Return the space of the files that were made or changed after the snapshot was taken."""
    from plugengine.trees.shared_blocks import unshared_bytes
    from plugengine.trees.upper import usage

    fd = os.open(path(request), _DIRECTORY)
    try:
        birth = btrfs.subvolume_birth(fd)
    finally:
        os.close(fd)

    def space(directory_fd: int, name: str, found: os.stat_result) -> int | None:
        return unshared_bytes(directory_fd, name, found) if found.st_ctime_ns > birth else None

    return usage(path(request), space)


def remove(request: StorageRequest) -> None:
    """Remove all that `make` made for this container alone; what is gone already is fine."""
    subvolumes.remove(path(request), _shared(request))
    if not request.shared:
        for name in os.listdir(request.directory):
            remove_tree(f"{request.directory}/{name}")


def _snapshot(request: StorageRequest) -> None:
    if os.path.isdir(path(request)):
        return
    directory_fd = os.open(request.directory, _DIRECTORY)
    try:
        with bases.base(request.chain, _shared(request)) as base_fd:
            btrfs.create_snapshot(base_fd, directory_fd, _SNAPSHOT)
    finally:
        os.close(directory_fd)


def _shared(request: StorageRequest) -> str:
    """Return the place of bases; where there is none for all containers, each has its own."""
    return request.shared or request.directory
