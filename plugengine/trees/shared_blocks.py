"""Use what a filesystem knows of shared blocks: whether two files are the same, and what a file has to itself."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.kernel import btrfs, files
from plugengine.kernel.extents import FIEMAP_EXTENT_LAST, FIEMAP_EXTENT_MERGED, FIEMAP_EXTENT_SHARED, fiemap

_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 512  # of st_blocks, stat(2)
_SHARING = frozenset({files.BTRFS_SUPER_MAGIC, files.XFS_SUPER_MAGIC})
# Of an extent with another flag the place alone does not tell what is in it.
_PLAIN = FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED | FIEMAP_EXTENT_SHARED
_DOES_NOT_SAY = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EBADF)


def same_content(one_fd: int, other_fd: int) -> bool:
    """Compare two regular files of equal size: by where they lie if they share their blocks, else by reading both."""
    try:
        if _may_share(one_fd, other_fd) and _same_place(one_fd, other_fd):
            return True
    except OSError as exc:
        if exc.errno not in _DOES_NOT_SAY:
            raise
    return _same_bytes(one_fd, other_fd)


def unshared_bytes(directory_fd: int, name: str, found: os.stat_result) -> int:
    """Return the space of an entry on disk that nothing else uses; what has no place on disk yet counts too.

    To be given to `plugengine.trees.upper.usage`.
    """
    blocks = found.st_blocks * _BLOCK_BYTES
    if not stat.S_ISREG(found.st_mode) or not blocks or files.fstatfs_type(directory_fd) not in _SHARING:
        return blocks
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return sum(extent.length for extent in fiemap(fd) if not extent.flags & FIEMAP_EXTENT_SHARED)
    except OSError as exc:
        if exc.errno not in _DOES_NOT_SAY:
            raise
        return blocks
    finally:
        os.close(fd)


def _may_share(one_fd: int, other_fd: int) -> bool:
    """Tell whether two files are on one filesystem that lets files share blocks."""
    kinds = {files.fstatfs_type(one_fd), files.fstatfs_type(other_fd)}
    if len(kinds) > 1 or not kinds <= _SHARING:
        return False
    if os.fstat(one_fd).st_dev == os.fstat(other_fd).st_dev:
        return True
    # Every subvolume of btrfs has a device number of its own.
    return kinds == {files.BTRFS_SUPER_MAGIC} and btrfs.filesystem_id(one_fd) == btrfs.filesystem_id(other_fd)


def _same_place(one_fd: int, other_fd: int) -> bool:
    """Tell whether two files have the same blocks; False also where that cannot be told."""
    pairs = []
    for fd in (one_fd, other_fd):
        extents = list(fiemap(fd, sync=True))
        if any(extent.flags & ~_PLAIN for extent in extents):
            return False
        pairs.append([(extent.logical, extent.physical, extent.length) for extent in extents])
    return bool(pairs[0]) and pairs[0] == pairs[1]


def _same_bytes(one_fd: int, other_fd: int) -> bool:
    """Read both files where at least one of them has no hole."""
    size = os.fstat(one_fd).st_size
    offset = 0
    while True:
        offset = min(_next_data(fd, offset, size) for fd in (one_fd, other_fd))
        one, other = os.pread(one_fd, _CHUNK_BYTES, offset), os.pread(other_fd, _CHUNK_BYTES, offset)
        if one != other:
            return False
        if not one:
            return True
        offset += len(one)


def _next_data(fd: int, offset: int, size: int) -> int:
    """Return where a hole that begins at an offset ends, or the offset; SEEK_DATA of lseek(2)."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        return max(offset, size) if exc.errno == errno.ENXIO else offset
