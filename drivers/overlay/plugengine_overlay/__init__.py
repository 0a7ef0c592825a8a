"""Storage driver `overlay`: the kernel's overlayfs over the layer store; see filesystems/overlayfs.rst."""

from __future__ import annotations

import os

from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import (
    Capability,
    DriverInfo,
    Host,
    HostPath,
    Record,
    Rootfs,
    StorageRequest,
    Upper,
    Usage,
)
from plugengine.trees import upper

from plugengine_overlay import mounting, options, support, writable

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="the kernel's overlayfs",
    capabilities=frozenset({Capability.NATIVE_DIFF, Capability.USER_MAP}),
    options=options.OPTIONS,
    rank=100,
)
# fs/overlayfs/super.c: a mount with `volatile` leaves it, and no later mount is allowed while it is there.
_VOLATILE_MARK = "work/incompat/volatile"


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_storage_probe(host: Host) -> list[str]:
    """Return what this kernel or the root's filesystem lacks."""
    return support.reasons(host)


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Make the upper and work directories, and copies of the layers where owners cannot be mapped by a mount."""
    return writable.make(request)


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return the overlay, and before it the id-mapped mount of the layers if there is one.

    The mark of an earlier `volatile` mount is taken away: the engine, not the filesystem, knows whether the host
    has crashed since.
    """
    chosen = options.mount_options(request.options, ephemeral=request.ephemeral)
    if (options.VOLATILE, None) in chosen:
        upper.remove_tree(f"{request.directory}/{mounting.WORK}/{_VOLATILE_MARK}")
    owners = str(record.get("owners") or writable.expected_owners(request))
    links = HostPath(f"{request.directory}/{mounting.LINKS}")
    overlay = mounting.overlay(
        request,
        writable.layers(request, owners),
        chosen,
        appending=support.appends_layers(),
        links=links if os.path.isdir(links) else None,
    )
    if owners == writable.MAPPED_MOUNT:
        return Rootfs(mounts=(mounting.mapped_parent(request), overlay))
    return Rootfs(mounts=(overlay,))


@hookimpl
def pe_storage_upper(request: StorageRequest, record: Record) -> Upper:
    """Return the upper directory; the kernel writes owners to it as they are outside of the user namespace."""
    return Upper(directory=_upper(request), user_map=request.user_map)


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the space of the upper directory."""
    return upper.usage(_upper(request))


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Remove all that prepare made."""
    writable.remove(request)


def _upper(request: StorageRequest) -> HostPath:
    return HostPath(f"{request.directory}/{mounting.UPPER}")
