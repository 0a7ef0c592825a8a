"""Subvolumes, snapshots and quota groups of btrfs; see btrfs-ioctl(5) and include/uapi/linux/btrfs.h."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Final

from plugengine.kernel.files import BTRFS_SUPER_MAGIC, fstatfs_type
from plugengine.kernel.libc import ioctl, os_error

# include/uapi/linux/btrfs.h
BTRFS_IOC_SNAP_DESTROY = 0x5000940F
BTRFS_IOC_INO_LOOKUP = 0xD0009412
BTRFS_IOC_SNAP_CREATE_V2 = 0x50009417
BTRFS_IOC_SUBVOL_CREATE_V2 = 0x50009418
BTRFS_IOC_SUBVOL_GETFLAGS = 0x80089419
BTRFS_IOC_SUBVOL_SETFLAGS = 0x4008941A
BTRFS_IOC_FS_INFO = 0x8400941F
BTRFS_IOC_QUOTA_CTL = 0xC0109428
BTRFS_IOC_QGROUP_CREATE = 0x4010942A
BTRFS_IOC_QGROUP_LIMIT = 0x8030942B
BTRFS_IOC_QUOTA_RESCAN_WAIT = 0x942E
BTRFS_IOC_GET_SUBVOL_INFO = 0x81F8943C
BTRFS_SUBVOL_RDONLY = 1 << 1
BTRFS_QUOTA_CTL_ENABLE = 1
BTRFS_QGROUP_LIMIT_MAX_EXCL = 1 << 1
# include/uapi/linux/btrfs_tree.h
BTRFS_FIRST_FREE_OBJECTID = 256

_VOL_NAME_MAX: Final = 255
_VOL_ARGS: Final = struct.Struct("=q4088s")  # struct btrfs_ioctl_vol_args: fd, name
_VOL_ARGS_V2: Final = struct.Struct("=qQQ32x4040s")  # struct btrfs_ioctl_vol_args_v2: fd, transid, flags, (quota), name
_FS_INFO_BYTES: Final = 1024  # struct btrfs_ioctl_fs_info_args: max_id, num_devices, fsid …
_FSID: Final = slice(16, 32)
_INO_LOOKUP: Final = struct.Struct("=QQ4080x")  # struct btrfs_ioctl_ino_lookup_args: treeid, objectid, name
_SUBVOL_INFO_BYTES: Final = 504  # struct btrfs_ioctl_get_subvol_info_args
_OTIME: Final = struct.Struct("=QI")  # struct btrfs_ioctl_timespec
_OTIME_AT: Final = 392
_QGROUP_LIMIT: Final = struct.Struct("=QQQQQQ")  # qgroupid; flags, max_rfer, max_excl, rsv_rfer, rsv_excl
_PAIR: Final = struct.Struct("=QQ")
_FLAGS: Final = struct.Struct("=Q")
_NS_PER_SECOND: Final = 1_000_000_000


def is_subvolume(fd: int) -> bool:
    """Tell whether an open file is the root directory of a subvolume."""
    found = os.fstat(fd)
    if found.st_ino != BTRFS_FIRST_FREE_OBJECTID or not stat.S_ISDIR(found.st_mode):
        return False
    return fstatfs_type(fd) == BTRFS_SUPER_MAGIC


def create_subvolume(directory_fd: int, name: str) -> None:
    """BTRFS_IOC_SUBVOL_CREATE_V2: make an empty subvolume in a directory."""
    arguments = bytearray(_VOL_ARGS_V2.pack(0, 0, 0, _name(name)))
    ioctl(directory_fd, BTRFS_IOC_SUBVOL_CREATE_V2, arguments, name)


def create_snapshot(source_fd: int, directory_fd: int, name: str, *, read_only: bool = False) -> None:
    """BTRFS_IOC_SNAP_CREATE_V2: make a snapshot of a subvolume, given by its root directory; nested ones stay out."""
    flags = BTRFS_SUBVOL_RDONLY if read_only else 0
    ioctl(directory_fd, BTRFS_IOC_SNAP_CREATE_V2, bytearray(_VOL_ARGS_V2.pack(source_fd, 0, flags, _name(name))), name)


def destroy_subvolume(directory_fd: int, name: str) -> None:
    """BTRFS_IOC_SNAP_DESTROY: remove a subvolume with all that is in it; its space comes back a little later.

    Raises:
        OSError: ENOTEMPTY: there are subvolumes in it; ENOTDIR, EINVAL: it is no subvolume.
    """
    ioctl(directory_fd, BTRFS_IOC_SNAP_DESTROY, bytearray(_VOL_ARGS.pack(0, _name(name))), name)


def set_read_only(fd: int, *, read_only: bool) -> None:
    """BTRFS_IOC_SUBVOL_SETFLAGS: protect all of a subvolume from changes, or no longer."""
    buffer = bytearray(_FLAGS.size)
    ioctl(fd, BTRFS_IOC_SUBVOL_GETFLAGS, buffer, f"descriptor {fd}")
    before = _FLAGS.unpack(buffer)[0]
    flags = before | BTRFS_SUBVOL_RDONLY if read_only else before & ~BTRFS_SUBVOL_RDONLY
    if flags != before:
        ioctl(fd, BTRFS_IOC_SUBVOL_SETFLAGS, bytearray(_FLAGS.pack(flags)), f"descriptor {fd}")


def subvolume_id(fd: int) -> int:
    """BTRFS_IOC_INO_LOOKUP: return the id of the subvolume that holds an open file."""
    buffer = bytearray(_INO_LOOKUP.pack(0, BTRFS_FIRST_FREE_OBJECTID))
    ioctl(fd, BTRFS_IOC_INO_LOOKUP, buffer, f"descriptor {fd}")
    number: int = _INO_LOOKUP.unpack(buffer)[0]
    return number


def subvolume_birth(fd: int) -> int:
    """BTRFS_IOC_GET_SUBVOL_INFO: return when a subvolume was made, in ns since the epoch."""
    buffer = bytearray(_SUBVOL_INFO_BYTES)
    ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, buffer, f"descriptor {fd}")
    seconds, ns = _OTIME.unpack_from(buffer, _OTIME_AT)
    return int(seconds) * _NS_PER_SECOND + int(ns)


def filesystem_id(fd: int) -> bytes:
    """BTRFS_IOC_FS_INFO: return the UUID of the filesystem that holds an open file, the same for all subvolumes."""
    buffer = bytearray(_FS_INFO_BYTES)
    ioctl(fd, BTRFS_IOC_FS_INFO, buffer, f"descriptor {fd}")
    return bytes(buffer[_FSID])


def enable_quota(fd: int) -> None:
    """BTRFS_IOC_QUOTA_CTL: count what each subvolume of the filesystem takes; on if it is on already, of any kind.

    Returns once the counts are right, which takes the longer the more there is on the filesystem.
    """
    ioctl(fd, BTRFS_IOC_QUOTA_CTL, bytearray(_PAIR.pack(BTRFS_QUOTA_CTL_ENABLE, 0)), f"descriptor {fd}")
    ioctl(fd, BTRFS_IOC_QUOTA_RESCAN_WAIT, 0, f"descriptor {fd}")


def limit_exclusive(fd: int, number: int, size: int) -> None:
    """BTRFS_IOC_QGROUP_LIMIT: limit what a subvolume takes that no other one shares, in bytes."""
    arguments = _QGROUP_LIMIT.pack(number, BTRFS_QGROUP_LIMIT_MAX_EXCL, 0, size, 0, 0)
    ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, bytearray(arguments), f"subvolume {number}")


def destroy_quota_group(fd: int, number: int) -> None:
    """BTRFS_IOC_QGROUP_CREATE with create 0: forget the counts of a subvolume that is gone; none counts as done.

    Raises:
        OSError: EBUSY: the filesystem is still taking the subvolume apart.
    """
    try:
        ioctl(fd, BTRFS_IOC_QGROUP_CREATE, bytearray(_PAIR.pack(0, number)), f"subvolume {number}")
    except OSError as exc:
        # ENOTCONN: nothing is counted on this filesystem.
        if exc.errno not in (errno.ENOENT, errno.ENOTCONN):
            raise


def _name(name: str) -> bytes:
    encoded = os.fsencode(name)
    if not encoded or len(encoded) > _VOL_NAME_MAX:
        raise os_error(errno.ENAMETOOLONG if encoded else errno.EINVAL, "ioctl", name)
    return encoded
