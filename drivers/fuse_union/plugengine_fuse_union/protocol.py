"""The kernel's FUSE protocol: numbers and wire layouts of include/uapi/linux/fuse.h, 7.31 to 7.45."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

KERNEL_VERSION: Final = 7
KERNEL_MINOR_VERSION: Final = 45
OLDEST_MINOR: Final = 31  # Linux 5.4; older kernels lay INIT out differently
ROOT_ID: Final = 1


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


# INIT flags; bits 32 and up travel in flags2
FUSE_ASYNC_READ: Final = 1 << 0
FUSE_ATOMIC_O_TRUNC: Final = 1 << 3
FUSE_BIG_WRITES: Final = 1 << 5
FUSE_DONT_MASK: Final = 1 << 6
FUSE_HAS_IOCTL_DIR: Final = 1 << 11
FUSE_DO_READDIRPLUS: Final = 1 << 13
FUSE_READDIRPLUS_AUTO: Final = 1 << 14
FUSE_ASYNC_DIO: Final = 1 << 15
FUSE_PARALLEL_DIROPS: Final = 1 << 18
FUSE_POSIX_ACL: Final = 1 << 20
FUSE_MAX_PAGES: Final = 1 << 22
FUSE_CACHE_SYMLINKS: Final = 1 << 23
FUSE_NO_OPENDIR_SUPPORT: Final = 1 << 24
FUSE_EXPLICIT_INVAL_DATA: Final = 1 << 25
FUSE_HANDLE_KILLPRIV_V2: Final = 1 << 28
FUSE_SETXATTR_EXT: Final = 1 << 29
FUSE_INIT_EXT: Final = 1 << 30
FUSE_DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
FUSE_PASSTHROUGH: Final = 1 << 37

# The minor version that brought a flag, for those not as old as the oldest that is spoken.
_SINCE: Final = {
    FUSE_HANDLE_KILLPRIV_V2: 33,
    FUSE_SETXATTR_EXT: 33,
    FUSE_INIT_EXT: 36,
    FUSE_DIRECT_IO_ALLOW_MMAP: 39,
    FUSE_PASSTHROUGH: 40,
}


def flags_after(minor: int) -> int:
    """Return the INIT flags that are newer than protocol 7.`minor`."""
    return sum(flag for flag, since in _SINCE.items() if since > minor)


# struct fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_KILL_SUIDGID: Final = 1 << 11

# replies to OPEN
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

FUSE_OPEN_KILL_SUIDGID: Final = 1 << 0
FUSE_WRITE_KILL_SUIDGID: Final = 1 << 2
FUSE_SETXATTR_ACL_KILL_SGID: Final = 1 << 0
FUSE_FSYNC_FDATASYNC: Final = 1 << 0

# enum fuse_notify_code
FUSE_NOTIFY_INVAL_INODE: Final = 2
FUSE_NOTIFY_PRUNE: Final = 9
PRUNE_MINOR: Final = 45

IN_HEADER: Final = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
REQUEST: Final = Struct("=4xIQQ")  # opcode unique nodeid, of the same
OWNER: Final = Struct("=24xIII")  # uid gid pid
OUT_HEADER: Final = Struct("=IiQ")  # len error unique
BODY: Final = IN_HEADER.size  # where the operation's own struct starts

INIT_IN: Final = Struct("=IIII")  # major minor max_readahead flags; since 7.36 flags2 follows
INIT_IN_FLAGS2: Final = Struct("=I")
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages
# map_alignment flags2 max_stack_depth request_timeout unused
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")

ATTR: Final = Struct("=QQQqqqIIIIIIIIII")  # struct fuse_attr
ENTRY: Final = Struct("=QQQQII")  # struct fuse_entry_out before its attr
ATTR_OUT: Final = Struct("=QII")  # struct fuse_attr_out before its attr
# Both with their attr, as two structs put together take three times as long as one.
ENTRY_REPLY: Final = Struct(ENTRY.format + ATTR.format[1:])
ATTR_REPLY: Final = Struct(ATTR_OUT.format + ATTR.format[1:])
OPEN_OUT: Final = Struct("=QIi")  # fh open_flags backing_id
GETATTR_IN: Final = Struct("=IIQ")  # getattr_flags dummy fh
STATX_IN: Final = Struct("=IIQII")  # getattr_flags reserved fh sx_flags sx_mask
# valid fh size atime mtime atimensec mtimensec mode uid gid, of struct fuse_setattr_in
SETATTR_IN: Final = Struct("=I4xQQ8xqq8xII4xI4xII4x")
OPEN_IN: Final = Struct("=II")  # flags open_flags
CREATE_IN: Final = Struct("=IIII")  # flags mode umask open_flags
MKNOD_IN: Final = Struct("=IIII")  # mode rdev umask padding
MKDIR_IN: Final = Struct("=II")  # mode umask
RENAME_IN: Final = Struct("=Q")  # newdir
RENAME2_IN: Final = Struct("=QII")  # newdir flags padding
LINK_IN: Final = Struct("=Q")  # oldnodeid
READ_IN: Final = Struct("=QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN: Final = Struct("=QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT: Final = Struct("=II")  # size padding
RELEASE_IN: Final = Struct("=QI")  # fh flags; release_flags lock_owner follow
FSYNC_IN: Final = Struct("=QII")  # fh fsync_flags padding
SETXATTR_IN: Final = Struct("=IIII")  # size flags setxattr_flags padding (FUSE_SETXATTR_EXT)
SETXATTR_IN_SHORT: Final = Struct("=II")  # size flags
GETXATTR_IN: Final = Struct("=II")  # size padding
GETXATTR_OUT: Final = Struct("=II")  # size padding
FALLOCATE_IN: Final = Struct("=QQQII")  # fh offset length mode padding
LSEEK_IN: Final = Struct("=QqII")  # fh offset whence padding
LSEEK_OUT: Final = Struct("=Q")
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
COPY_FILE_RANGE_OUT: Final = Struct("=Q")
IOCTL_IN: Final = Struct("=QIIQII")  # fh flags cmd arg in_size out_size
IOCTL_OUT: Final = Struct("=iIII")  # result flags in_iovs out_iovs
FORGET_IN: Final = Struct("=Q")  # nlookup
BATCH_FORGET_IN: Final = Struct("=II")  # count dummy
FORGET_ONE: Final = Struct("=QQ")  # nodeid nlookup
STATFS_OUT: Final = Struct("=QQQQQIII28x")  # blocks bfree bavail files ffree bsize namelen frsize
DIRENT: Final = Struct("=QQII")  # ino off namelen type
# attr_valid attr_valid_nsec flags spare, then struct fuse_statx
STATX_OUT: Final = Struct("=QII16xIIQIIIH2xQQQQqIiqIiqIiqIiIIII112x")
NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")  # nodeid off len
NOTIFY_PRUNE_OUT: Final = Struct("=IIQ")  # count padding spare, then nodeids
