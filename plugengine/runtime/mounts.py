"""Plan the mounts the caller asked for, and the engine's own files in /etc; pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

from plugengine.bundle import GuestMount
from plugengine.errors import UsageError
from plugengine.kernel.mount import (
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_STRICTATIME,
)
from plugengine.model import GuestPath, HostPath, UserMap
from plugengine.runtime.request import InsideRequest, ResolvedMount

_PROPAGATION: Final = ("private", "slave", "shared")

# lxcfs covers these with numbers of the container's own limits; nothing else in procfs may be covered, or what
# the engine (or a tool of the host) writes there would go elsewhere: CVE-2019-16884, CVE-2019-19921.
_PROC_FILES: Final = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")
)

# Mount options that are flags of the mount: (bits to clear, bits to set)
_ATIME: Final = MS_NOATIME | MS_STRICTATIME
_TMPFS_FLAGS: Final = {
    "ro": (0, MS_RDONLY),
    "rw": (MS_RDONLY, 0),
    "suid": (MS_NOSUID, 0),
    "nosuid": (0, MS_NOSUID),
    "dev": (MS_NODEV, 0),
    "nodev": (0, MS_NODEV),
    "exec": (MS_NOEXEC, 0),
    "noexec": (0, MS_NOEXEC),
    "atime": (_ATIME, 0),
    "noatime": (_ATIME, MS_NOATIME),
    "relatime": (_ATIME, 0),
    "strictatime": (_ATIME, MS_STRICTATIME),
    "diratime": (MS_NODIRATIME, 0),
    "nodiratime": (0, MS_NODIRATIME),
}
_TMPFS_PARAMETERS: Final = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol", "noswap")


def normal(target: str) -> GuestPath:
    """Return a path of the guest in its shortest form; `..` is taken away by words, as docker does.

    Raises:
        UsageError: It is not absolute, or no path at all.
    """
    if not target.startswith("/") or "\0" in target:
        raise UsageError(f"mount point {target!r}: not an absolute path")
    return GuestPath(posixpath.normpath("/" + target.lstrip("/")))


def plan_mounts(request: InsideRequest) -> Iterator[GuestMount]:
    """Yield the mounts, those nearer to the root first, so that none hides another.

    Raises:
        UsageError: Two on one mount point, or a mount point, option or propagation that can't be.
    """
    user_map = request.namespaces.user_map
    wanted: dict[GuestPath, GuestMount] = {}
    for each in request.mounts:
        target = normal(each.target)
        if target in wanted:
            raise UsageError(f"mount point {target}: given twice")
        wanted[target] = _plan_mount(each, target, user_map)
    for guest, host in request.etc_files.items():
        target = normal(guest)
        wanted.setdefault(target, _etc_file(target, host, user_map, read_only=request.spec.read_only))
    # The sort is stable: among equals the caller's order stays.
    for target in sorted(wanted, key=lambda path: path.count("/")):
        yield wanted[target]


def _etc_file(target: GuestPath, host: HostPath, user_map: UserMap | None, *, read_only: bool) -> GuestMount:
    return GuestMount(
        fstype="bind",
        source=host,
        target=target,
        flags=MS_RDONLY if read_only else 0,
        user_map=user_map,
        follow=True,
    )


def _plan_mount(each: ResolvedMount, target: GuestPath, user_map: UserMap | None) -> GuestMount:
    if target == "/":
        raise UsageError("mount point /: the root is the image's")
    if (target == "/proc" or target.startswith("/proc/")) and target not in _PROC_FILES:
        raise UsageError(f"mount point {target}: procfs is the container's own and can't be covered")
    if each.source is None:
        return _tmpfs(each, target)
    return GuestMount(
        fstype="bind",
        source=each.source,
        target=target,
        flags=(MS_RDONLY if each.read_only else 0) | (MS_REC if each.recursive else 0),
        propagation=_propagation(each.propagation, target),
        user_map=user_map if each.volume else None,
        subpath=each.subpath,
        volume=each.volume,
        follow=True,
    )


def _propagation(word: str, target: str) -> str:
    # "r" of rprivate, rslave, rshared: with the mounts below, which are part of a recursive bind anyway.
    kind = word.removeprefix("r")
    if kind not in _PROPAGATION:
        known = ", ".join(f"{name}, r{name}" for name in _PROPAGATION)
        raise UsageError(f"mount point {target}: unknown propagation {word!r}", hint=f"known: {known}")
    return kind


def _tmpfs(each: ResolvedMount, target: GuestPath) -> GuestMount:
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    options: list[tuple[str, str | None]] = []
    for name, value in each.options:
        if name in _TMPFS_FLAGS and value is None:
            clear, raised = _TMPFS_FLAGS[name]
            flags = flags & ~clear | raised
        elif name in _TMPFS_PARAMETERS:
            options.append((name, value))
        else:
            known = ", ".join([*_TMPFS_FLAGS, *_TMPFS_PARAMETERS])
            raise UsageError(f"--tmpfs {target}: unknown option {name!r}", hint=f"known: {known}")
    if each.read_only:
        flags |= MS_RDONLY
    return GuestMount(fstype="tmpfs", source="tmpfs", target=target, flags=flags, options=tuple(options), follow=True)
