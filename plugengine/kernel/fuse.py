"""Mount a FUSE filesystem and manage its descriptors; fuse(4), include/uapi/linux/fuse.h."""

from __future__ import annotations

import os
import stat
import struct

from plugengine.kernel.libc import ioctl
from plugengine.kernel.mount import MS_NODEV, MS_NOSUID, mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# include/uapi/linux/fuse.h
FUSE_DEV_IOC_CLONE = 0x8004E500
FUSE_DEV_IOC_BACKING_OPEN = 0x4010E501
FUSE_DEV_IOC_BACKING_CLOSE = 0x4004E502

_FUSE_DEVICE = "/dev/fuse"
_U32 = struct.Struct("=I")
# struct fuse_backing_map: int32 fd, uint32 flags, uint64 padding
_BACKING_MAP = struct.Struct("=iIQ")


def open_fuse() -> int:
    """Open /dev/fuse: one descriptor is one connection, which ends when its last copy is closed."""
    return os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)


def mount_fuse(
    target: str | bytes,
    fd: int,
    *,
    rootmode: int = stat.S_IFDIR | 0o755,
    uid: int = 0,
    gid: int = 0,
    options: Sequence[str] = (),
    flags: int = MS_NOSUID | MS_NODEV,
    source: str = "fuse",
    subtype: str = "",
) -> None:
    """mount(2) of a FUSE filesystem; whoever touches it then waits until the server has replied to FUSE_INIT.

    Args:
        target: Mount point.
        fd: Of `open_fuse`; the kernel keeps a reference as long as the mount lives.
        rootmode: File type, and permission bits until the server is asked.
        uid: Owner of the mount; others need the option allow_other.
        gid: See `uid`.
        options: More mount options, such as allow_other, default_permissions, max_read=N.
        flags: MS_*; the default is what an untrusted filesystem needs.
        source: Shown in the mount table.
        subtype: Shown after "fuse." in the mount table.
    """
    data = [f"fd={fd}", f"rootmode={rootmode:o}", f"user_id={uid}", f"group_id={gid}", *options]
    mount(source, target, f"fuse.{subtype}" if subtype else "fuse", flags, ",".join(data))


def fuse_clone(fd: int) -> int:
    """FUSE_DEV_IOC_CLONE: open another descriptor of the same connection, with a request queue lock of its own."""
    clone = open_fuse()
    try:
        ioctl(clone, FUSE_DEV_IOC_CLONE, bytearray(_U32.pack(fd)), f"FUSE descriptor {fd}")
    except BaseException:
        os.close(clone)
        raise
    return clone


def fuse_backing_open(fuse_fd: int, fd: int) -> int:
    """FUSE_DEV_IOC_BACKING_OPEN: register an open file for passthrough and return its backing id.

    Needs CAP_SYS_ADMIN, Linux 6.9, and FUSE_PASSTHROUGH agreed on in FUSE_INIT (EPERM without).
    """
    # A bytearray: with bytes fcntl.ioctl returns the buffer and the id, which is the call's result, is lost.
    request = bytearray(_BACKING_MAP.pack(fd, 0, 0))
    return ioctl(fuse_fd, FUSE_DEV_IOC_BACKING_OPEN, request, f"backing descriptor {fd}")


def fuse_backing_close(fuse_fd: int, backing_id: int) -> None:
    """FUSE_DEV_IOC_BACKING_CLOSE: forget a backing id; files that are open keep it alive. ENOENT: unknown id."""
    ioctl(fuse_fd, FUSE_DEV_IOC_BACKING_CLOSE, bytearray(_U32.pack(backing_id)), f"backing id {backing_id}")
