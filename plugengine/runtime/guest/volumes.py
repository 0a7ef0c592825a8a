"""Plan the mounts the caller asked for, and the engine's own files in /etc; pure."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import Final

from plugengine.errors import UsageError
from plugengine.kernel.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
)
from plugengine.model import GuestPath, HostPath
from plugengine.runtime.guest.request import GuestRequest, ResolvedMount
from plugengine.runtime.guest.steps import GuestStep, MountTmpfs, MountTree

_PROPAGATION: Final = {"private": MS_PRIVATE, "slave": MS_SLAVE, "shared": MS_SHARED}

# lxcfs covers these with numbers of the container's own limits; nothing else in procfs may be covered, or what
# the engine (or a tool of the host) writes there would go elsewhere: CVE-2019-16884, CVE-2019-19921.
_PROC_FILES: Final = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")
)

# Mount options that are attributes of the mount: (bits to clear, bits to set)
_TMPFS_FLAGS: Final = {
    "ro": (0, MOUNT_ATTR_RDONLY),
    "rw": (MOUNT_ATTR_RDONLY, 0),
    "suid": (MOUNT_ATTR_NOSUID, 0),
    "nosuid": (0, MOUNT_ATTR_NOSUID),
    "dev": (MOUNT_ATTR_NODEV, 0),
    "nodev": (0, MOUNT_ATTR_NODEV),
    "exec": (MOUNT_ATTR_NOEXEC, 0),
    "noexec": (0, MOUNT_ATTR_NOEXEC),
    "atime": (MOUNT_ATTR__ATIME, 0),
    "noatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME),
    "relatime": (MOUNT_ATTR__ATIME, 0),
    "strictatime": (MOUNT_ATTR__ATIME, MOUNT_ATTR_STRICTATIME),
    "diratime": (MOUNT_ATTR_NODIRATIME, 0),
    "nodiratime": (0, MOUNT_ATTR_NODIRATIME),
}
_TMPFS_PARAMETERS: Final = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "mpol", "noswap")


def normal(target: str) -> str:
    """Return a path of the guest in its shortest form; `..` is taken away by words, as docker does.

    Raises:
        UsageError: It is not absolute, or no path at all.
    """
    if not target.startswith("/") or "\0" in target:
        raise UsageError(f"mount point {target!r}: not an absolute path")
    return posixpath.normpath("/" + target.lstrip("/"))


def plan_mounts(request: GuestRequest) -> Iterator[GuestStep]:
    """Yield the mounts, those nearer to the root first, so that none hides another.

    Raises:
        UsageError: Two on one mount point, or a mount point, option or propagation that can't be.
    """
    wanted: dict[str, GuestStep] = {}
    for each in request.mounts:
        target = normal(each.target)
        if target in wanted:
            raise UsageError(f"mount point {target}: given twice")
        wanted[target] = _plan_mount(each, target)
    for guest, host in request.etc_files.items():
        wanted.setdefault(normal(guest), _etc_file(guest, host, read_only=request.spec.read_only))
    # The sort is stable: among equals the caller's order stays.
    for target in sorted(wanted, key=lambda path: path.count("/")):
        yield wanted[target]


def _etc_file(guest: GuestPath, host: HostPath, *, read_only: bool) -> MountTree:
    return MountTree(
        source=os.fsencode(host),
        target=os.fsencode(normal(guest)),
        attributes=MOUNT_ATTR_RDONLY if read_only else 0,
        propagation=MS_PRIVATE,
        create_source=True,
        mapped=True,
    )


def _plan_mount(each: ResolvedMount, target: str) -> GuestStep:
    if target == "/":
        raise UsageError("mount point /: the root is the image's")
    inside_proc = target == "/proc" or target.startswith("/proc/")
    if inside_proc and target not in _PROC_FILES:
        raise UsageError(f"mount point {target}: procfs is the container's own and can't be covered")
    if each.source is None:
        return _tmpfs(each, target)
    return MountTree(
        source=os.fsencode(each.source),
        target=os.fsencode(target),
        attributes=MOUNT_ATTR_RDONLY if each.read_only else 0,
        propagation=_propagation(each.propagation, target),
        recursive=each.recursive,
        inside_proc=inside_proc,
        mapped=bool(each.volume),
        volume=os.fsencode(each.volume),
        subpath=os.fsencode(each.subpath),
    )


def _propagation(word: str, target: str) -> int:
    # "r" of rprivate, rslave, rshared: with the mounts below, which are part of a recursive bind anyway.
    kind = _PROPAGATION.get(word.removeprefix("r"))
    if kind is None:
        known = ", ".join(f"{name}, r{name}" for name in _PROPAGATION)
        raise UsageError(f"mount point {target}: unknown propagation {word!r}", hint=f"known: {known}")
    return kind


def _tmpfs(each: ResolvedMount, target: str) -> MountTmpfs:
    bits = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    parameters: list[tuple[bytes, bytes | None]] = [(b"source", b"tmpfs")]
    for name, value in each.options:
        if name in _TMPFS_FLAGS and value is None:
            clear, raised = _TMPFS_FLAGS[name]
            bits = bits & ~clear | raised
        elif name in _TMPFS_PARAMETERS:
            parameters.append((os.fsencode(name), None if value is None else os.fsencode(value)))
        else:
            known = ", ".join([*_TMPFS_FLAGS, *_TMPFS_PARAMETERS])
            raise UsageError(f"--tmpfs {target}: unknown option {name!r}", hint=f"known: {known}")
    if each.read_only:
        bits |= MOUNT_ATTR_RDONLY
    return MountTmpfs(target=os.fsencode(target), attributes=bits, parameters=tuple(parameters))
