"""Read and change what a file is beside its data: owner, mode, times, xattrs, inode flags; by descriptor."""

from __future__ import annotations

import errno
import os
from ctypes import Structure, byref, c_char_p, c_int, c_int32, c_long, c_uint, c_uint16, c_uint32, c_void_p, get_errno
from ctypes import c_uint64 as u64

from plugengine.kernel.files import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from plugengine.kernel.libc import declare, declare_syscall, encode, ioctl, os_error

# include/uapi/linux/stat.h
STATX_MODE = 0x2
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000
STATX_ATTR_IMMUTABLE = 0x10
STATX_ATTR_APPEND = 0x20
STATX_ATTR_MOUNT_ROOT = 0x2000
AT_STATX_DONT_SYNC = 0x4000

# include/uapi/linux/stat.h and bits/stat.h
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

# include/uapi/linux/fs.h
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE_FL = 0x10
FS_APPEND_FL = 0x20
FS_NODUMP_FL = 0x40
FS_NOATIME_FL = 0x80

# include/uapi/linux/xattr.h
XATTR_CREATE = 1
XATTR_REPLACE = 2

_NS_PER_SECOND = 1_000_000_000
# (uid_t) -1 leaves an owner as it is, chown(2).
_KEEP_ID = 0xFFFFFFFF
_LONG_BYTES = 8
_FLAGS_BYTES = 4


class Timespec(Structure):
    """struct timespec with 64-bit time."""

    _fields_ = (("tv_sec", c_long), ("tv_nsec", c_long))


class StatxTimestamp(Structure):
    """struct statx_timestamp, include/uapi/linux/stat.h."""

    _fields_ = (("tv_sec", u64), ("tv_nsec", c_uint32), ("__reserved", c_int32))


class StatxBuffer(Structure):
    """struct statx, include/uapi/linux/stat.h."""

    _fields_ = (
        ("stx_mask", c_uint32),
        ("stx_blksize", c_uint32),
        ("stx_attributes", u64),
        ("stx_nlink", c_uint32),
        ("stx_uid", c_uint32),
        ("stx_gid", c_uint32),
        ("stx_mode", c_uint16),
        ("__spare0", c_uint16),
        ("stx_ino", u64),
        ("stx_size", u64),
        ("stx_blocks", u64),
        ("stx_attributes_mask", u64),
        ("stx_atime", StatxTimestamp),
        ("stx_btime", StatxTimestamp),
        ("stx_ctime", StatxTimestamp),
        ("stx_mtime", StatxTimestamp),
        ("stx_rdev_major", c_uint32),
        ("stx_rdev_minor", c_uint32),
        ("stx_dev_major", c_uint32),
        ("stx_dev_minor", c_uint32),
        ("stx_mnt_id", u64),
        ("__spare", u64 * 13),
    )


_statx = declare_syscall("statx", c_int, c_char_p, c_int, c_uint, c_void_p)
_fchmodat2 = declare_syscall("fchmodat2", c_int, c_char_p, c_uint, c_int)
_fchownat = declare("fchownat", c_int, c_char_p, c_uint, c_uint, c_int)
_utimensat = declare("utimensat", c_int, c_char_p, c_void_p, c_int)


def statx(
    dirfd: int, path: str | bytes = b"", flags: int = AT_SYMLINK_NOFOLLOW
) -> tuple[int | None, int | None, int | None]:
    """statx(2) for what os.stat does not tell; an empty path means `dirfd` itself, O_PATH will do.

    Returns:
        (btime_ns, mnt_id, attributes): time of birth in ns since the epoch, id of the mount as in mountinfo, and
        STATX_ATTR_*; each None where the filesystem or the kernel does not say. Only attributes that are
        supported count, so a bit that is 0 there may also mean "not known".
    """
    buffer = _statx_or_raise(dirfd, path, flags)
    known = buffer.stx_mask
    birth = buffer.stx_btime
    return (
        birth.tv_sec * _NS_PER_SECOND + birth.tv_nsec if known & STATX_BTIME else None,
        buffer.stx_mnt_id if known & STATX_MNT_ID else None,
        buffer.stx_attributes & buffer.stx_attributes_mask if buffer.stx_attributes_mask else None,
    )


def is_mount_root(dirfd: int, path: str | bytes = b"") -> bool:
    """Tell whether the file is the root of a mount, STATX_ATTR_MOUNT_ROOT of statx(2)."""
    return bool(_statx_or_raise(dirfd, path, AT_SYMLINK_NOFOLLOW).stx_attributes & STATX_ATTR_MOUNT_ROOT)


def remembered_mode(dirfd: int, path: str | bytes = b"", flags: int = AT_SYMLINK_NOFOLLOW) -> int:
    """AT_STATX_DONT_SYNC of statx(2): st_mode as the kernel remembers it, without a question to a file server.

    By this one it executes a file, after access(2) has made sure that it is not known to be outdated.
    """
    return int(_statx_or_raise(dirfd, path, flags | AT_STATX_DONT_SYNC, STATX_MODE).stx_mode)


def _statx_or_raise(
    dirfd: int, path: str | bytes, flags: int, wanted: int = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID
) -> StatxBuffer:
    name = encode(path)
    if not name:
        flags |= AT_EMPTY_PATH
    buffer = StatxBuffer()
    if _statx(dirfd, name, flags, wanted, byref(buffer)) != 0:
        raise os_error(get_errno(), "statx", path or f"descriptor {dirfd}")
    return buffer


def fchmodat(dirfd: int, path: str | bytes, mode: int, flags: int = AT_SYMLINK_NOFOLLOW) -> None:
    """fchmodat2(2): set permission bits; an empty path means `dirfd` itself, O_PATH will do.

    Before Linux 6.6 the way is chmod(2) on /proc/self/fd. A symlink has no mode: EOPNOTSUPP.
    """
    name = encode(path)
    if not name:
        flags |= AT_EMPTY_PATH
    if _fchmodat2(dirfd, name, mode, flags) == 0:
        return
    error = get_errno()
    # EPERM: seccomp filters of old container engines answer calls they do not know with it.
    if error not in {errno.ENOSYS, errno.EPERM}:
        raise os_error(error, "fchmodat2", path or f"descriptor {dirfd}")
    if not name:
        os.chmod(b"/proc/self/fd/%d" % dirfd, mode)
        return
    nofollow = os.O_NOFOLLOW if flags & AT_SYMLINK_NOFOLLOW else 0
    fd = os.open(name, os.O_PATH | os.O_CLOEXEC | nofollow, dir_fd=dirfd)
    try:
        os.chmod(b"/proc/self/fd/%d" % fd, mode)
    finally:
        os.close(fd)


def fchownat(dirfd: int, path: str | bytes, uid: int, gid: int, flags: int = AT_SYMLINK_NOFOLLOW) -> None:
    """fchownat(2): set the owner, -1 leaves one; an empty path means `dirfd` itself, O_PATH will do."""
    name = encode(path)
    if not name:
        flags |= AT_EMPTY_PATH
    if _fchownat(dirfd, name, _owner(uid), _owner(gid), flags) != 0:
        raise os_error(get_errno(), "fchownat", path or f"descriptor {dirfd}")


def _owner(number: int) -> int:
    """Refuse what C would wrap: 2**32 would become root."""
    if not -1 <= number < _KEEP_ID:
        raise os_error(errno.EINVAL, "fchownat", f"id {number}")
    return number & _KEEP_ID


def utimensat(
    dirfd: int,
    path: str | bytes,
    atime_ns: int | None,
    mtime_ns: int | None,
    flags: int = AT_SYMLINK_NOFOLLOW,
) -> None:
    """utimensat(2): set times in ns since the epoch, None leaves one.

    An empty path means `dirfd` itself, O_PATH will do (AT_EMPTY_PATH, Linux 5.8).
    """
    name = encode(path)
    if not name:
        flags |= AT_EMPTY_PATH
    times = (Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    if _utimensat(dirfd, name, times, flags) != 0:
        raise os_error(get_errno(), "utimensat", path or f"descriptor {dirfd}")


def _timespec(time_ns: int | None) -> Timespec:
    return Timespec(0, UTIME_OMIT) if time_ns is None else Timespec(*divmod(time_ns, _NS_PER_SECOND))


def xattr_path(fd: int, name: str | bytes = b"") -> bytes:
    """Return a path through /proc for the xattr calls, which know neither O_PATH descriptors nor dirfds.

    Args:
        fd: Any descriptor, or the directory of `name`.
        name: One entry of the directory; not followed when it is a symlink.

    Raises:
        OSError: EINVAL: more than one component, which could lead anywhere.
    """
    entry = encode(name)
    if not entry:
        return b"/proc/self/fd/%d" % fd
    if b"/" in entry or entry in {b".", b".."}:
        raise os_error(errno.EINVAL, "xattr", name)
    return b"/proc/self/fd/%d/%s" % (fd, entry)


def getxattr(fd: int, attribute: str | bytes, name: str | bytes = b"") -> bytes:
    """getxattr(2) of a descriptor, or lgetxattr(2) of `name` in it; ENODATA: there is no such attribute."""
    return os.getxattr(xattr_path(fd, name), attribute, follow_symlinks=not name)


def setxattr(fd: int, attribute: str | bytes, value: bytes, name: str | bytes = b"", *, flags: int = 0) -> None:
    """setxattr(2) of a descriptor, or lsetxattr(2) of `name` in it; XATTR_CREATE and XATTR_REPLACE as flags."""
    os.setxattr(xattr_path(fd, name), attribute, value, flags, follow_symlinks=not name)


def listxattr(fd: int, name: str | bytes = b"") -> list[str]:
    """listxattr(2) of a descriptor, or llistxattr(2) of `name` in it; trusted.* only with CAP_SYS_ADMIN."""
    return os.listxattr(xattr_path(fd, name), follow_symlinks=not name)


def removexattr(fd: int, attribute: str | bytes, name: str | bytes = b"") -> None:
    """removexattr(2) of a descriptor, or lremovexattr(2) of `name` in it."""
    os.removexattr(xattr_path(fd, name), attribute, follow_symlinks=not name)


def get_inode_flags(fd: int) -> int:
    """FS_IOC_GETFLAGS of ioctl_iflags(2): FS_*_FL of an open file; ENOTTY where the filesystem has none."""
    buffer = bytearray(_LONG_BYTES)
    ioctl(fd, FS_IOC_GETFLAGS, buffer, f"descriptor {fd}")
    # The request's number says long, the kernel reads and writes an int; see "BUGS" of ioctl_iflags(2).
    return int.from_bytes(buffer[:_FLAGS_BYTES], "little")


def set_inode_flags(fd: int, flags: int) -> None:
    """FS_IOC_SETFLAGS of ioctl_iflags(2); FS_IMMUTABLE_FL and FS_APPEND_FL need CAP_LINUX_IMMUTABLE."""
    ioctl(fd, FS_IOC_SETFLAGS, bytearray(flags.to_bytes(_LONG_BYTES, "little")), f"descriptor {fd}")
