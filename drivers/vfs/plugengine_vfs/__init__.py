"""Storage driver `vfs`: a plain directory for each container, copied from its layers; blocks are shared if possible."""

from __future__ import annotations

import os
from typing import Final

from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import Capability, DriverInfo, Host, Record, Rootfs, StorageRequest, Usage
from plugengine.mounts import bind_obstacles

from plugengine_vfs import tree

_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="a copy of the image for each container, on any filesystem; shares blocks on btrfs and XFS",
    capabilities=frozenset({Capability.USER_MAP}),
    rank=10,
)


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_storage_probe(host: Host) -> list[str]:
    """Return what keeps a plain directory below this host's root from being a root filesystem."""
    return [*(["mounting needs CAP_SYS_ADMIN: run as root"] if os.geteuid() != 0 else []), *bind_obstacles(host.root)]


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Copy what the layers show."""
    return tree.make(request)


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return a bind mount of the copy."""
    return Rootfs(mounts=(tree.mount(request, record),))


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the space of the copy but for blocks it shares with the layers."""
    from plugengine.trees.shared_blocks import unshared_bytes
    from plugengine.trees.upper import usage

    return usage(tree.path(request), unshared_bytes)


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Remove the copy, also a half-made one."""
    tree.remove(request)
