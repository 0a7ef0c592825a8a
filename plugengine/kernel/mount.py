"""Mount and arrange filesystems: mount(2), the descriptor based mount API, pivot_root(2)."""

from __future__ import annotations

import errno
import os
from ctypes import Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_ulong, c_void_p, get_errno, sizeof
from ctypes import c_uint64 as u64

from plugengine.kernel.files import AT_EMPTY_PATH, AT_FDCWD
from plugengine.kernel.libc import declare, declare_syscall, encode, os_error

# include/uapi/linux/mount.h, flags of mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_POSIXACL = 1 << 16
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

# include/linux/fs.h and sys/mount.h, flags of umount2(2)
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

# include/uapi/linux/mount.h, the descriptor based API
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_SYMLINKS = 0x1
MOVE_MOUNT_F_AUTOMOUNTS = 0x2
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_AUTOMOUNTS = 0x20
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_SET_GROUP = 0x100
MOVE_MOUNT_BENEATH = 0x200
FSOPEN_CLOEXEC = 0x1
FSPICK_CLOEXEC = 0x1
FSPICK_SYMLINK_NOFOLLOW = 0x2
FSPICK_NO_AUTOMOUNT = 0x4
FSPICK_EMPTY_PATH = 0x8
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_BINARY = 2
FSCONFIG_SET_PATH = 3
FSCONFIG_SET_PATH_EMPTY = 4
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

# include/uapi/linux/mount.h, mount attributes
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# One message of a filesystem context is shorter than this, see fs/fs_context.c.
_LOG_BYTES = 4096


class MountAttr(Structure):
    """struct mount_attr, include/uapi/linux/mount.h."""

    _fields_ = (("attr_set", u64), ("attr_clr", u64), ("propagation", u64), ("userns_fd", u64))


_mount = declare("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = declare("umount2", c_char_p, c_int)
_pivot_root = declare_syscall("pivot_root", c_char_p, c_char_p)
_fsopen = declare_syscall("fsopen", c_char_p, c_uint)
_fspick = declare_syscall("fspick", c_int, c_char_p, c_uint)
_fsconfig = declare_syscall("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = declare_syscall("fsmount", c_int, c_uint, c_uint)
_open_tree = declare_syscall("open_tree", c_int, c_char_p, c_uint)
_move_mount = declare_syscall("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_mount_setattr = declare_syscall("mount_setattr", c_int, c_char_p, c_uint, c_void_p, c_size_t)


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | bytes | None = None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """mount(2).

    Raises:
        OSError: `filename` is the target. E2BIG: the data does not fit into a page, of which the kernel would
            silently have taken the beginning (copy_mount_options in fs/namespace.c); use fsconfig_* instead.
    """
    options = None if data is None else encode(data)
    if options is not None and len(options) >= os.sysconf("SC_PAGE_SIZE"):
        raise os_error(errno.E2BIG, "mount", target, "mount data is longer than a page")
    result = _mount(
        None if source is None else encode(source),
        encode(target),
        None if fstype is None else encode(fstype),
        flags,
        options,
    )
    if result != 0:
        raise os_error(get_errno(), "mount", target)


def umount2(target: str | bytes, flags: int = 0) -> None:
    """umount2(2); EINVAL: there is no mount at the target."""
    if _umount2(encode(target), flags) != 0:
        raise os_error(get_errno(), "umount2", target)


def pivot_root(new_root: str | bytes, put_old: str | bytes) -> None:
    """pivot_root(2); "." for both, after chdir(2) to the new root, stacks the old root on top of it."""
    if _pivot_root(encode(new_root), encode(put_old)) != 0:
        raise os_error(get_errno(), "pivot_root", new_root)


def fsopen(fstype: str | bytes, flags: int = FSOPEN_CLOEXEC) -> int:
    """fsopen(2): open a filesystem context; ENODEV: the kernel does not know the type.

    Returns:
        A descriptor for fsconfig_* and fsmount; the caller closes it.
    """
    fd = _fsopen(encode(fstype), flags)
    if fd < 0:
        raise os_error(get_errno(), "fsopen", fstype)
    return fd


def fspick(dirfd: int, path: str | bytes, flags: int = FSPICK_CLOEXEC) -> int:
    """fspick(2): open a context to reconfigure a mounted filesystem; an empty path means `dirfd` itself."""
    name = encode(path)
    fd = _fspick(dirfd, name, flags if name else flags | FSPICK_EMPTY_PATH)
    if fd < 0:
        raise os_error(get_errno(), "fspick", path or f"descriptor {dirfd}")
    return fd


def fsconfig_set_flag(fs_fd: int, key: str | bytes) -> None:
    """FSCONFIG_SET_FLAG of fsconfig(2): an option without a value."""
    _fsconfig_or_raise(fs_fd, FSCONFIG_SET_FLAG, encode(key), None, 0)


def fsconfig_set_string(fs_fd: int, key: str | bytes, value: str | bytes) -> None:
    """FSCONFIG_SET_STRING of fsconfig(2); the kernel takes at most 255 bytes of value (EINVAL)."""
    _fsconfig_or_raise(fs_fd, FSCONFIG_SET_STRING, encode(key), encode(value), 0)


def fsconfig_set_path(fs_fd: int, key: str | bytes, path: str | bytes, dirfd: int = AT_FDCWD) -> None:
    """FSCONFIG_SET_PATH of fsconfig(2), or FSCONFIG_SET_PATH_EMPTY where the path is empty."""
    name = encode(path)
    command = FSCONFIG_SET_PATH if name else FSCONFIG_SET_PATH_EMPTY
    _fsconfig_or_raise(fs_fd, command, encode(key), name, dirfd)


def fsconfig_set_fd(fs_fd: int, key: str | bytes, fd: int) -> None:
    """FSCONFIG_SET_FD of fsconfig(2): an option given as an open file (overlay layers: Linux 6.13)."""
    _fsconfig_or_raise(fs_fd, FSCONFIG_SET_FD, encode(key), None, fd)


def fsconfig_create(fs_fd: int) -> None:
    """FSCONFIG_CMD_CREATE of fsconfig(2): make the superblock from the options set so far."""
    _fsconfig_or_raise(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0)


def fsconfig_reconfigure(fs_fd: int) -> None:
    """FSCONFIG_CMD_RECONFIGURE of fsconfig(2): apply the options to a context of fspick."""
    _fsconfig_or_raise(fs_fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)


def _fsconfig_or_raise(fs_fd: int, command: int, key: bytes | None, value: bytes | None, aux: int) -> None:
    if _fsconfig(fs_fd, command, key, value, aux) != 0:
        error = get_errno()
        option = b"superblock" if key is None else key if value is None else key + b"=" + value
        raise os_error(error, "fsconfig", option, read_context_log(fs_fd))


def fsmount(fs_fd: int, flags: int = FSMOUNT_CLOEXEC, attr_flags: int = 0) -> int:
    """fsmount(2): make a detached mount of a created superblock.

    Args:
        fs_fd: The context, after fsconfig_create.
        flags: FSMOUNT_*.
        attr_flags: MOUNT_ATTR_* of the new mount.

    Returns:
        An O_PATH descriptor of the mount, for move_mount; as a dirfd it works at once. Closing it unattached takes
        the mount away.
    """
    fd = _fsmount(fs_fd, flags, attr_flags)
    if fd < 0:
        error = get_errno()
        raise os_error(error, "fsmount", f"descriptor {fs_fd}", read_context_log(fs_fd))
    return fd


def read_context_log(fs_fd: int) -> str:
    """Read what the kernel has to say about a filesystem context, as one line; empty when it is silent.

    Each read(2) of the context yields one message and takes it away, ENODATA ends them; see fsopen(2). Overlay says
    most of its reasons to the kernel log only (as of Linux 6.18).
    """
    messages: list[str] = []
    while True:
        try:
            line = os.read(fs_fd, _LOG_BYTES)
        except OSError:
            break
        if not line:
            break
        kind, _, text = line.decode(errors="replace").strip().partition(" ")
        if kind in {"e", "w"}:
            messages.append(text)
    return "; ".join(messages)


def open_tree(dirfd: int, path: str | bytes, flags: int = OPEN_TREE_CLOEXEC) -> int:
    """open_tree(2): pick a mount, or with OPEN_TREE_CLONE (and AT_RECURSIVE) make a detached copy of it.

    An empty path means `dirfd` itself.
    """
    name = encode(path)
    fd = _open_tree(dirfd, name, flags if name else flags | AT_EMPTY_PATH)
    if fd < 0:
        raise os_error(get_errno(), "open_tree", path or f"descriptor {dirfd}")
    return fd


def move_mount(
    from_dirfd: int,
    from_path: str | bytes = b"",
    to_dirfd: int = AT_FDCWD,
    to_path: str | bytes = b"",
    flags: int = 0,
) -> None:
    """move_mount(2): attach a detached mount, or move an attached one.

    An empty path means the descriptor itself, so `move_mount(tree_fd, to_dirfd=target_fd)` puts a mount
    exactly onto the object a descriptor was opened for, whatever the path says by now.
    """
    source, target = encode(from_path), encode(to_path)
    if not source:
        flags |= MOVE_MOUNT_F_EMPTY_PATH
    if not target:
        flags |= MOVE_MOUNT_T_EMPTY_PATH
    if _move_mount(from_dirfd, source, to_dirfd, target, flags) != 0:
        raise os_error(get_errno(), "move_mount", to_path or f"descriptor {to_dirfd}")


def mount_setattr(
    dirfd: int,
    path: str | bytes = b"",
    flags: int = 0,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2): change the attributes of a mount, with AT_RECURSIVE of the tree below it.

    Args:
        dirfd: Where `path` starts; the mount itself when the path is empty.
        path: A mount point.
        flags: AT_*.
        attr_set: MOUNT_ATTR_* to raise.
        attr_clr: MOUNT_ATTR_* to clear; MOUNT_ATTR__ATIME must be cleared to set another access time mode.
        propagation: One of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.
        userns_fd: User namespace for MOUNT_ATTR_IDMAP, which only a detached mount accepts.
    """
    attributes = MountAttr(attr_set=attr_set, attr_clr=attr_clr, propagation=propagation, userns_fd=userns_fd)
    name = encode(path)
    if not name:
        flags |= AT_EMPTY_PATH
    if _mount_setattr(dirfd, name, flags, byref(attributes), sizeof(attributes)) != 0:
        raise os_error(get_errno(), "mount_setattr", path or f"descriptor {dirfd}")
