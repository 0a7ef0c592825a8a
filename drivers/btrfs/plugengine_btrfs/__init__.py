"""Storage driver `btrfs`: each image written out once as a subvolume, and a snapshot of it for each container."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel.mount import MS_RDONLY
from plugengine.model import (
    Capability,
    DriverInfo,
    Host,
    HostPath,
    Mount,
    Option,
    OptionKind,
    Record,
    Rootfs,
    StorageRequest,
    Usage,
)

from plugengine_btrfs import bases, clones, limits, support

_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="btrfs snapshots: a container is there at once, whatever the number of layers; limits of space",
    capabilities=frozenset({Capability.USER_MAP, Capability.QUOTA}),
    options=(
        Option(
            name="size",
            kind=OptionKind.SIZE,
            least=1 << 20,  # btrfs counts with no less
            help="most that the container's changes may take on disk, like 512m or 10g; turns the filesystem's quotas "
            "on, which slows down removals; subvolumes a process makes inside are not counted",
        ),
    ),
    rank=40,
)


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_storage_probe(host: Host) -> Iterable[str]:
    """Return why there can be no subvolumes below this host's root."""
    return support.reasons(host)


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Write the chain out if no container needed it before, and take a snapshot."""
    return clones.make(request)


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return a bind mount of the snapshot."""
    snapshot = Mount(
        fstype="bind",
        source=clones.path(request),
        target=request.target,
        flags=MS_RDONLY if request.read_only else 0,
        user_map=request.user_map,
    )
    return Rootfs(mounts=(snapshot,))


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the space of what was written since the snapshot was taken."""
    return clones.usage(request)


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Remove the snapshot, with the subvolumes that were made in it."""
    clones.remove(request)


@hookimpl
def pe_storage_gc(host: Host, valid_ids: frozenset[str], shared: HostPath) -> Iterable[str]:
    """Remove what was written out of layers that are gone, and what killed processes left unfinished."""
    return [*bases.collect(shared), *limits.collect(shared)] if shared else []
