"""Storage driver `fuse_union`: a union filesystem in pure Python, straight on /dev/fuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import Final

from plugengine.errors import DriverError, NoSpaceError
from plugengine.hookspecs import hookimpl
from plugengine.model import (
    Capability,
    DriverInfo,
    Host,
    HostPath,
    IdRange,
    Option,
    OptionKind,
    Record,
    Rootfs,
    Server,
    StorageRequest,
    Upper,
    Usage,
)

_UPPER: Final = "upper"
_UNFINISHED: Final = "upper.new"  # until the upper directory has all of the image's root
_WORK: Final = "work"
_NOTE: Final = "server"  # where the counters of the running server are
_DEVICE: Final = "/dev/fuse"
_OLDEST_KERNEL: Final = (5, 4)  # FUSE 7.31

_OPTIONS: Final = (
    Option(
        name="transport",
        kind=OptionKind.CHOICE,
        choices=("auto", "devfuse", "fusepy"),
        default="auto",
        help="how requests come in: devfuse (straight on /dev/fuse); fusepy (through libfuse 2); auto: what works",
    ),
    Option(
        name="passthrough",
        kind=OptionKind.CHOICE,
        choices=("auto", "off"),
        default="auto",
        help="auto: the kernel reads and writes files by itself if it can",
    ),
    Option(
        name="fsync",
        kind=OptionKind.FLAG,
        default="on",
        help="off: fsync does nothing; quicker, and a power cut may lose anything",
    ),
    Option(
        name="redirect_dir",
        kind=OptionKind.CHOICE,
        choices=("nofollow", "follow"),
        default="nofollow",
        help="follow: find directories that overlayfs marked as moved",
    ),
    Option(
        name="metacopy",
        kind=OptionKind.FLAG,
        default="off",
        help="on: find the data of files of which overlayfs copied the metadata",
    ),
    Option(
        name="size",
        kind=OptionKind.SIZE,
        least=1,
        help="most that the container's changes may take on disk, like 512m or 10g",
    ),
    Option(
        name="trace",
        kind=OptionKind.PATH,
        help="file to write to which files of the image are opened or executed",
    ),
)


@hookimpl
def pe_storage_info() -> DriverInfo:
    """Return what this driver can do."""
    return DriverInfo(
        api_version=(1, 0),
        summary="union filesystem in pure Python on /dev/fuse; works where the kernel's overlayfs does not",
        capabilities=frozenset({Capability.NATIVE_DIFF, Capability.USER_MAP, Capability.QUOTA}),
        options=_OPTIONS,
        rank=50,
    )


@hookimpl
def pe_storage_probe(host: Host) -> Iterable[str]:
    """Return what is missing on this host."""
    reasons = []
    if host.kernel < _OLDEST_KERNEL:
        needed = ".".join(map(str, _OLDEST_KERNEL))
        reasons.append(f"Linux {needed} or newer is needed, this is {host.kernel[0]}.{host.kernel[1]}")
    if os.geteuid() != 0:
        reasons.append("mounting straight on /dev/fuse needs root")
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        reasons.append(f"{_DEVICE} cannot be opened: {os.strerror(exc.errno or 0).lower()}; try `modprobe fuse`")
    return [*reasons, *_unfit_filesystem(host.root)]


def _unfit_filesystem(root: HostPath) -> list[str]:
    """Return why the filesystem of the root cannot hold an upper directory."""
    from plugengine.kernel.files import NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs_type

    place: str = root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        kind = fstatfs_type(fd)
    finally:
        os.close(fd)
    names = {OVERLAYFS_SUPER_MAGIC: "overlayfs, which takes no whiteouts", NFS_SUPER_MAGIC: "NFS, which takes no marks"}
    return [f"{place} is on {names[kind]}; put --root on another filesystem"] if kind in names else []


@hookimpl
def pe_storage_prepare(request: StorageRequest) -> Record:
    """Make the upper and the work directory."""
    # For a process that starts many: servers are forked from its children, and would import it anew each.
    import plugengine_fuse_union.server  # noqa: F401

    options = request.options
    if options["transport"] == "fusepy":
        from plugengine_fuse_union.libfuse import load, require_carried

        require_carried(options)
        load()
    try:
        _make(os.path.join(request.directory, _WORK), 0o700)
        _make_upper(request)
    except OSError as exc:
        pe_storage_remove(request, None)
        kind = NoSpaceError if exc.errno in (errno.ENOSPC, errno.EDQUOT) else DriverError
        raise kind(
            f"prepare storage of {request.container_id} in {request.directory}: {os.strerror(exc.errno or 0).lower()}"
        ) from exc
    return {}


@hookimpl
def pe_storage_mounts(request: StorageRequest, record: Record) -> Rootfs:
    """Return the server that mounts the union."""
    options = request.options
    config: dict[str, object] = {
        "target": request.target,
        "lowers": list(reversed(request.chain)),
        "upper": os.path.join(request.directory, _UPPER),
        "work": os.path.join(request.directory, _WORK),
        "read_only": request.read_only,
        "transport": options["transport"],
        "passthrough": options["passthrough"] == "auto",
        "durable": options["fsync"],
    }
    config["follow"] = options["redirect_dir"] == "follow"
    config["metacopy"] = options["metacopy"]
    config["note"] = os.path.join(request.directory, _NOTE)
    config |= {name: options[name] for name in ("size", "trace") if options[name] is not None}
    if request.user_map is not None:
        config["user_map"] = {"uids": _rows(request.user_map.uids), "gids": _rows(request.user_map.gids)}
    return Rootfs(server=Server(entry="plugengine_fuse_union.server:serve", config=config))


@hookimpl
def pe_storage_upper(request: StorageRequest, record: Record) -> Upper:
    """Return the upper directory; its owners are those the container sees, as in the layers."""
    return Upper(directory=_upper(request))


@hookimpl
def pe_storage_usage(request: StorageRequest, record: Record) -> Usage:
    """Return the space of the upper directory."""
    from plugengine.trees.upper import usage

    return usage(_upper(request))


@hookimpl
def pe_storage_stats(request: StorageRequest, record: Record) -> Mapping[str, int]:
    """Return what the server has done since the mount."""
    from plugengine_fuse_union.counters import read_counters

    return read_counters(os.path.join(request.directory, _NOTE))


@hookimpl
def pe_storage_remove(request: StorageRequest, record: Record | None) -> None:
    """Remove the upper and the work directory."""
    from plugengine.trees.upper import remove_tree

    for name in (_UPPER, _UNFINISHED, _WORK):
        remove_tree(os.path.join(request.directory, name))
    try:
        os.unlink(os.path.join(request.directory, _NOTE))
    except FileNotFoundError:
        pass


def _upper(request: StorageRequest) -> HostPath:
    return HostPath(os.path.join(request.directory, _UPPER))


def _rows(ranges: Iterable[IdRange]) -> list[list[int]]:
    return [[each.guest, each.host, each.size] for each in ranges]


def _make_upper(request: StorageRequest) -> None:
    """Make the upper directory, complete or not at all: a prepare that was killed can be followed by another."""
    if os.path.isdir(_upper(request)):
        return
    unfinished = os.path.join(request.directory, _UNFINISHED)
    _make(unfinished, 0o755)
    if request.chain:
        _copy_root(request.chain[-1], unfinished)
    os.rename(unfinished, _upper(request))


def _make(path: str, mode: int) -> None:
    """Make a directory with this mode whatever the umask; one that is there stays as it is."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    os.chmod(path, mode)


def _copy_root(layer: HostPath, upper: str) -> None:
    """Give the union's root, which is the upper directory itself, what the image's root has."""
    from plugengine.trees.whiteouts import STEERING

    status = os.stat(layer)
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, status.st_mode & 0o7777)
    for name in os.listxattr(layer):
        if not name.startswith(STEERING):
            os.setxattr(upper, name, os.getxattr(layer, name))
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))
