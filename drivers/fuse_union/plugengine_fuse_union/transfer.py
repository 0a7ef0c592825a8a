"""Copy data, holes and metadata of one file to another by descriptor."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final

from plugengine.kernel.files import ficlone
from plugengine.trees.whiteouts import STEERING

CAPABILITY: Final = "security.capability"
_CHUNK: Final = 1 << 20
_SMALL: Final = 1 << 16  # copied by one read and one write
_BLOCK: Final = 512  # of st_blocks
# Filesystems or pairs of them that cannot copy inside the kernel.
_NO_OFFLOAD: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EPERM})
# An xattr the upper's filesystem has no place for may be lost, but never an ACL or a label.
_PRECIOUS: Final = ("system.posix_acl_", "security.")


class DataCopier:
    """Copies data and remembers what the filesystem can't."""

    def __init__(self) -> None:
        self._shares = True

    def copy(self, source: int, target: int, status: os.stat_result, size: int) -> None:
        """Copy the first `size` bytes into an empty file; shared where the filesystem can, holes stay holes.

        Args:
            source: Descriptor, open for reading.
            target: Descriptor, open for writing.
            status: Of the source.
            size: At most its size.
        """
        if size == 0 or (self._shares and self._share(source, target)):
            return
        if size <= _SMALL and status.st_blocks * _BLOCK >= status.st_size:
            os.pwrite(target, os.pread(source, size, 0), 0)
            return
        os.ftruncate(target, size)
        _copy_extents(source, target, size)

    def _share(self, source: int, target: int) -> bool:
        try:
            ficlone(target, source)
        except OSError as exc:
            if exc.errno not in _NO_OFFLOAD:
                raise
            self._shares = exc.errno == errno.EXDEV  # another layer may lie on the upper's filesystem
            return False
        return True


def _copy_extents(source: int, target: int, size: int) -> None:
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        position = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_extent(source, target, start, position)


def _copy_extent(source: int, target: int, start: int, end: int) -> None:
    offload = True
    while start < end:
        count = end - start
        if offload:
            try:
                done = os.copy_file_range(source, target, count, offset_src=start, offset_dst=start)
            except OSError as exc:
                if exc.errno not in _NO_OFFLOAD:
                    raise
                offload = False
                continue
        else:
            done = os.pwrite(target, os.pread(source, min(count, _CHUNK), start), start)
        if done == 0:
            return
        start += done


def copy_xattrs(source: int, target: int) -> None:
    """Copy all xattrs of an open file but the private ones of the union."""
    write_xattrs(read_xattrs(source), target)


def write_xattrs(values: Mapping[str, bytes], target: int | bytes) -> None:
    """Set xattrs of a descriptor, or of an entry of the current directory."""
    for name, value in values.items():
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP or name.startswith(_PRECIOUS):
                raise


def read_xattrs(source: int | bytes) -> dict[str, bytes]:
    """Return all xattrs but the private ones of the union, of a descriptor or of an entry of the current directory."""
    found = {}
    try:
        names = os.listxattr(source) if isinstance(source, int) else os.listxattr(source, follow_symlinks=False)
        for name in names:
            if not name.startswith(STEERING):
                if isinstance(source, int):
                    found[name] = os.getxattr(source, name)
                else:
                    found[name] = os.getxattr(source, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
    return found


def remove_xattr(target: int, name: str) -> None:
    """Remove an xattr of an open file, if it has it."""
    try:
        os.removexattr(target, name)
    except OSError as exc:
        if exc.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
            raise


def copy_owner_and_mode(status: os.stat_result, dir_fd: int, name: bytes) -> None:
    """Give an entry the owner and the mode of another; the owner first, as chown(2) clears setuid."""
    os.chown(name, status.st_uid, status.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=dir_fd)


def copy_times(status: os.stat_result, dir_fd: int, name: bytes) -> None:
    """Give an entry the access and modification time of another."""
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=dir_fd, follow_symlinks=False)
