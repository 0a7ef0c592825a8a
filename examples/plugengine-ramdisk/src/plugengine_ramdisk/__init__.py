"""Storage driver `ramdisk`: what a container writes stays in memory; its image is read from disk through overlayfs.

Nothing a container does reaches a disk, so builds and tests run at the speed of memory and wear nothing out. The
memory is taken as files are written, at most `size` of it, and given back when the container is removed. A reboot
loses it: the container begins anew from its image.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from plugengine import mounts
from plugengine.errors import DriverError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel.mount import MNT_DETACH, MS_RDONLY, umount2
from plugengine.kernel.mountinfo import read_mountinfo
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
    Upper,
    Usage,
)
from plugengine.trees import upper

_UPPER: Final = "upper"
_WORK: Final = "work"
_EMPTY: Final = "empty"  # overlayfs wants a lower directory, also for a container without layers
_LEAST_BYTES: Final = 1 << 12  # one page

_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="the kernel's overlayfs with the writable layer in memory",
    capabilities=frozenset((Capability.NATIVE_DIFF, Capability.QUOTA, Capability.HOST_MOUNTS)),
    options=(
        Option(
            name="size",
            kind=OptionKind.SIZE,
            least=_LEAST_BYTES,
            default="1g",
            help="most memory the container's files may take",
        ),
    ),
)


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_storage_probe(host: Host) -> Iterable[str]:
    """Return why this host cannot run it."""
    if os.geteuid() != 0:
        return ("mounting needs CAP_SYS_ADMIN: run as root",)
    with open("/proc/filesystems", encoding="ascii") as stream:
        known = stream.read().split()
    return [f"this kernel has no {name}: load its module" for name in ("tmpfs", "overlay") if name not in known]


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Mount the memory where everyone sees it, so that usage and changes can be asked for from anywhere."""
    place = _place(request)
    try:
        if not _is_mounted(place):
            os.makedirs(place, 0o700, exist_ok=True)
            options = (("size", str(request.options["size"])), ("mode", "0700"))
            mounts.perform(Mount(fstype="tmpfs", source="ramdisk", target=place, options=options))
        _set_up(request)
    except OSError as exc:
        _unmount(place)
        raise DriverError(f"prepare container {request.container_id}: {exc.filename}: {exc.strerror}") from exc
    except BaseException:
        _unmount(place)
        raise
    return {}


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return the overlay; overlayfs wants the topmost layer first, and each only once."""
    place = _place(request)
    layers = list(dict.fromkeys(reversed(request.chain))) or [HostPath(f"{place}/{_EMPTY}")]
    overlay = Mount(
        fstype="overlay",
        source="overlay",
        target=request.target,
        flags=MS_RDONLY if request.read_only else 0,
        options=(
            *(("lowerdir+", layer) for layer in layers),
            ("upperdir", f"{place}/{_UPPER}"),
            ("workdir", f"{place}/{_WORK}"),
            ("xino", "on"),  # the layers are on another filesystem: one number for one file, all the same
        ),
    )
    return Rootfs(mounts=(overlay,))


@hookimpl
def pe_storage_upper(request: StorageRequest, record: Record) -> Upper:
    """Return the upper directory."""
    return Upper(directory=_upper(request))


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the memory the container's files take."""
    return upper.usage(_upper(request))


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Give the memory back."""
    _unmount(_place(request))


@hookimpl
def pe_storage_gc(host: Host, valid_ids: frozenset[str], shared: HostPath) -> Iterable[str]:
    """Give back the memory of containers that are no more."""
    strays = sorted(set(os.listdir(shared)) - valid_ids) if os.path.isdir(shared) else []
    for owner in strays:
        _unmount(f"{shared}/{owner}")
    return [f"memory of container {owner}" for owner in strays]


def _place(request: StorageRequest) -> HostPath:
    """Return where the memory is mounted: not in the container's directory, which the engine removes by itself."""
    return HostPath(f"{request.shared}/{request.container_id}")


def _upper(request: StorageRequest) -> HostPath:
    return HostPath(f"{_place(request)}/{_UPPER}")


def _set_up(request: StorageRequest) -> None:
    """Make the directories, and give the upper one what the image's root has: it is what is seen of it."""
    for name in (_UPPER, _WORK, _EMPTY):
        os.makedirs(f"{_place(request)}/{name}", 0o755, exist_ok=True)
    if not request.chain:
        return
    source, target = request.chain[-1], _upper(request)
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _is_mounted(place: str) -> bool:
    return any(entry.mount_point == place for entry in read_mountinfo())


def _unmount(place: str) -> None:
    if _is_mounted(place):
        umount2(place, MNT_DETACH)
    for path in (place, os.path.dirname(place)):
        try:
            os.rmdir(path)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
