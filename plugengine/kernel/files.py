"""Open, create, rename and identify files by descriptor, never outside a given root; see openat2(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from ctypes import (
    Structure,
    byref,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_ulong,
    c_void_p,
    get_errno,
    sizeof,
)
from ctypes import c_uint64 as u64

from plugengine.kernel.libc import declare, declare_syscall, encode, ioctl, os_error

# include/uapi/linux/fcntl.h
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# include/uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# include/uapi/linux/fs.h
RENAME_NOREPLACE = 1 << 0
RENAME_EXCHANGE = 1 << 1
RENAME_WHITEOUT = 1 << 2
FICLONE = 0x40049409

# SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER together
SYNC_FILE_RANGE_WRITE_AND_WAIT = 7

# include/uapi/linux/close_range.h
CLOSE_RANGE_UNSHARE = 1 << 1
CLOSE_RANGE_CLOEXEC = 1 << 2
CLOSE_RANGE_LAST = 0xFFFFFFFF

# include/uapi/linux/magic.h
BTRFS_SUPER_MAGIC = 0x9123683E
CGROUP2_SUPER_MAGIC = 0x63677270
CGROUP_SUPER_MAGIC = 0x27E0EB
DEVPTS_SUPER_MAGIC = 0x1CD1
EXT4_SUPER_MAGIC = 0xEF53
FUSE_SUPER_MAGIC = 0x65735546
NFS_SUPER_MAGIC = 0x6969
NSFS_MAGIC = 0x6E736673
OVERLAYFS_SUPER_MAGIC = 0x794C7630
PROC_SUPER_MAGIC = 0x9FA0
RAMFS_MAGIC = 0x858458F6
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
XFS_SUPER_MAGIC = 0x58465342

# As many links as the kernel follows in one path, MAXSYMLINKS in include/linux/namei.h.
_MAXSYMLINKS = 40
# openat2(2) gives EAGAIN when a rename or mount anywhere on the system races with `..`; a container that
# renames without end must not hold us forever.
_OPENAT2_TRIES = 128


class OpenHow(Structure):
    """struct open_how, include/uapi/linux/openat2.h."""

    _fields_ = (("flags", u64), ("mode", u64), ("resolve", u64))


class StatFs(Structure):
    """struct statfs of x86_64 and aarch64, include/uapi/asm-generic/statfs.h."""

    _fields_ = (
        ("f_type", c_long),
        ("f_bsize", c_long),
        ("f_blocks", c_ulong),
        ("f_bfree", c_ulong),
        ("f_bavail", c_ulong),
        ("f_files", c_ulong),
        ("f_ffree", c_ulong),
        ("f_fsid", c_int * 2),
        ("f_namelen", c_long),
        ("f_frsize", c_long),
        ("f_flags", c_long),
        ("f_spare", c_long * 4),
    )


_openat2 = declare_syscall("openat2", c_int, c_char_p, c_void_p, c_size_t)
_renameat2 = declare_syscall("renameat2", c_int, c_char_p, c_int, c_char_p, c_uint)
_close_range = declare_syscall("close_range", c_uint, c_uint, c_uint)
_linkat = declare("linkat", c_int, c_char_p, c_int, c_char_p, c_int)
_fstatfs = declare("fstatfs", c_int, c_void_p)
_syncfs = declare("syncfs", c_int)
_sync_file_range = declare("sync_file_range", c_int, c_long, c_long, c_uint)
_fallocate = declare("fallocate", c_int, c_int, c_long, c_long)


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): open a file and say how its path may be resolved.

    Unlike open(2) it refuses flags it does not know, and a mode without O_CREAT or O_TMPFILE.

    Returns:
        A new descriptor; the caller closes it.
    """
    how = OpenHow(flags=flags, mode=mode, resolve=resolve)
    name = encode(path)
    for _ in range(_OPENAT2_TRIES):
        fd = _openat2(dirfd, name, byref(how), sizeof(how))
        if fd >= 0:
            return fd
        error = get_errno()
        interrupted = error == errno.EINTR or (error == errno.EAGAIN and not resolve & RESOLVE_CACHED)
        if not interrupted:
            raise os_error(error, "openat2", path)
    raise os_error(errno.EAGAIN, "openat2", path)


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open a path as a process chrooted to `root_fd` would: `/`, `..` and symlinks all stay inside.

    O_CLOEXEC is always set; the kernel's magic links (/proc/PID/fd/N and the like) are refused with ELOOP.

    Args:
        root_fd: Directory that stands for `/`.
        path: Absolute and relative mean the same.
        flags: O_* of open(2).
        mode: Permission bits of a file that O_CREAT makes.
        resolve: Further RESOLVE_* flags.
    """
    return openat2(
        root_fd,
        path or b".",
        flags | os.O_CLOEXEC,
        mode,
        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,
    )


def mkdir_in_root(root_fd: int, path: str | bytes, mode: int = 0o755, *, parents_mode: int | None = None) -> int:
    """Make a directory and its missing parents inside a root, and return an O_PATH descriptor of it.

    What is there already is kept as it is. Symlinks are followed inside the root, dangling ones too: the
    directory they point to is made. `mode`, and `parents_mode` unless that is the same, are lessened by the umask,
    as in mkdir(2).

    Raises:
        NotADirectoryError: A component is there and is something else.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root_fd, path, flags)
    except FileNotFoundError:
        return _Walk(root_fd, path, mode if parents_mode is None else parents_mode).to_directory(mode)


def create_file_in_root(root_fd: int, path: str | bytes, mode: int = 0o644, *, directory_mode: int = 0o755) -> int:
    """Make an empty file and its missing parents inside a root, and return an O_PATH descriptor of it.

    A file of any kind that is there already is kept and opened; symlinks are followed inside the root.

    Raises:
        IsADirectoryError: The path is a directory.
    """
    try:
        fd = open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        fd = _Walk(root_fd, path, directory_mode).to_file(mode)
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise os_error(errno.EISDIR, "openat2", path)
    return fd


class _Walk:
    """One walk through a root, a descriptor at a time, making what is missing.

    `..` goes back along the descriptors already held, so a rename during the walk cannot lead outside.
    """

    def __init__(self, root_fd: int, path: str | bytes, mode: int) -> None:
        self._path = path
        self._mode = self._last_mode = mode
        self._held = [os.dup(root_fd)]
        self._pending: list[bytes] = []
        self._links = 0
        self._push(encode(path))

    def to_directory(self, mode: int) -> int:
        self._last_mode = mode
        try:
            while self._pending:
                self._enter(self._pending.pop())
            return self._held.pop()
        finally:
            self._close()

    def to_file(self, mode: int) -> int:
        try:
            while self._pending:
                name = self._pending.pop()
                if self._pending or name == b"..":
                    self._enter(name)
                elif (fd := self._open_file(name, mode)) >= 0:
                    return fd
            return self._held.pop()
        finally:
            self._close()

    def _push(self, path: bytes) -> None:
        self._pending += [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]

    def _enter(self, name: bytes) -> None:
        if name == b"..":
            if len(self._held) > 1:
                os.close(self._held.pop())
            return
        fd = self._open(name)
        self._step(self._make_directory(name) if fd < 0 else fd)

    def _make_directory(self, name: bytes) -> int:
        try:
            os.mkdir(name, self._mode if self._pending else self._last_mode, dir_fd=self._held[-1])
        except FileExistsError:
            pass  # someone else was faster; what it is, is found out later
        return self._open_or_raise(name)

    def _make_file(self, name: bytes, mode: int) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, mode, dir_fd=self._held[-1]))
        except FileExistsError:
            pass
        return self._open_or_raise(name)

    def _open_file(self, name: bytes, mode: int) -> int:
        """Return the file of that name, made if missing; -1 after a symlink, whose target is pending now."""
        fd = self._open(name)
        if fd < 0:
            fd = self._make_file(name, mode)
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            self._step(fd)
            return -1
        return fd

    def _open(self, name: bytes) -> int:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=self._held[-1])
        except FileNotFoundError:
            return -1

    def _open_or_raise(self, name: bytes) -> int:
        fd = self._open(name)
        if fd < 0:
            raise os_error(errno.ENOENT, "openat", self._path)
        return fd

    def _step(self, fd: int) -> None:
        """Take a descriptor over: a directory becomes the current one, a symlink adds its target."""
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            self._held.append(fd)
            return
        try:
            if not stat.S_ISLNK(kind):
                raise os_error(errno.ENOTDIR, "openat", self._path)
            self._links += 1
            if self._links > _MAXSYMLINKS:
                raise os_error(errno.ELOOP, "openat", self._path)
            target = os.readlink(b"", dir_fd=fd)
        finally:
            os.close(fd)
        if target.startswith(b"/"):
            while len(self._held) > 1:
                os.close(self._held.pop())
        self._push(target)

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())


def renameat2(olddirfd: int, oldpath: str | bytes, newdirfd: int, newpath: str | bytes, flags: int = 0) -> None:
    """renameat2(2)."""
    if _renameat2(olddirfd, encode(oldpath), newdirfd, encode(newpath), flags) != 0:
        raise os_error(get_errno(), "renameat2", oldpath)


def linkat(olddirfd: int, oldpath: str | bytes, newdirfd: int, newpath: str | bytes, flags: int = 0) -> None:
    """linkat(2)."""
    if _linkat(olddirfd, encode(oldpath), newdirfd, encode(newpath), flags) != 0:
        raise os_error(get_errno(), "linkat", newpath)


def link_fd(fd: int, newdirfd: int, newpath: str | bytes) -> None:
    """Give an open file a name, as for a file opened with O_TMPFILE.

    AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH in the initial user namespace and says ENOENT without it; the way
    through /proc needs nothing, see linkat(2).
    """
    try:
        linkat(fd, b"", newdirfd, newpath, AT_EMPTY_PATH)
    except FileNotFoundError:
        linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, newdirfd, newpath, AT_SYMLINK_FOLLOW)


def close_range(first: int, last: int = CLOSE_RANGE_LAST, flags: int = 0) -> None:
    """close_range(2): close descriptors, or with CLOSE_RANGE_CLOEXEC mark them; both ends are included.

    Where an old container's seccomp filter hides the call (ENOSYS, or EPERM from filters older than it), the
    descriptors are read from /proc and treated one by one; CLOSE_RANGE_UNSHARE has no such substitute.
    """
    if _close_range(first, last, flags) == 0:
        return
    error = get_errno()
    if error not in {errno.ENOSYS, errno.EPERM} or flags & CLOSE_RANGE_UNSHARE:
        raise os_error(error, "close_range", f"descriptors {first}-{last}")
    _close_one_by_one(first, last, flags)


def _close_one_by_one(first: int, last: int, flags: int) -> None:
    for name in os.listdir(b"/proc/self/fd"):
        fd = int(name)
        if not first <= fd <= last:
            continue
        try:
            if flags & CLOSE_RANGE_CLOEXEC:
                os.set_inheritable(fd, False)
            else:
                os.close(fd)
        except OSError as exc:
            # The descriptor that listed the directory is gone by now.
            if exc.errno != errno.EBADF:
                raise


def names_in(directory_fd: int) -> list[str]:
    """Return the names of the entries there are now, whenever the directory was opened.

    os.listdir begins where the descriptor stands; and Btrfs reads up to the entry that was the last when it was opened
    or set back to the beginning (commits 9b378f6ad48c, e60aa5da14d0).
    """
    os.lseek(directory_fd, 0, os.SEEK_SET)
    return os.listdir(directory_fd)


def fstatfs_type(fd: int) -> int:
    """fstatfs(2): return f_type, one of the *_MAGIC numbers; O_PATH descriptors will do."""
    result = StatFs()
    if _fstatfs(fd, byref(result)) != 0:
        raise os_error(get_errno(), "fstatfs", f"descriptor {fd}")
    magic: int = result.f_type & 0xFFFFFFFF  # a magic has 32 bits, the field is signed
    return magic


def is_open_for_writing(fd: int) -> bool:
    """F_SETLEASE of fcntl(2): tell whether a file is open for writing, or mapped to be written, by anybody.

    Where it is not, the descriptor has a read lease afterwards: close it at once, as who opens the file for writing
    waits until then, and this process gets SIGIO, which ends one that does not ignore it.

    Args:
        fd: Of a regular file, open for reading only.

    Raises:
        OSError: EINVAL: the filesystem, or the administrator, allows no leases.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    return False


def ficlone(dest_fd: int, src_fd: int) -> None:
    """FICLONE of ioctl_ficlonerange(2): share all data of `src_fd`; EOPNOTSUPP where the filesystem can't."""
    ioctl(dest_fd, FICLONE, src_fd, f"descriptor {dest_fd}")


def syncfs(fd: int) -> None:
    """syncfs(2): write out all of the filesystem that holds `fd`, which O_PATH may not have opened."""
    if _syncfs(fd) != 0:
        raise os_error(get_errno(), "syncfs", f"descriptor {fd}")


def sync_file_range(fd: int, offset: int, length: int, flags: int) -> None:
    """sync_file_range(2): write out data, not metadata, and no disk's cache; length 0 means to the end."""
    if _sync_file_range(fd, offset, length, flags) != 0:
        raise os_error(get_errno(), "sync_file_range", f"descriptor {fd}")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_* as mode; os.posix_fallocate knows only mode 0 and writes zeros where it must."""
    if _fallocate(fd, mode, offset, length) != 0:
        raise os_error(get_errno(), "fallocate", f"descriptor {fd}")
