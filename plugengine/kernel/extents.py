"""Where the data of a file is on disk, and whether it is shared with others; see filesystems/fiemap.rst."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from plugengine.kernel.libc import ioctl

# include/uapi/linux/fs.h and fiemap.h
FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 0x1
FIEMAP_EXTENT_LAST = 0x1
FIEMAP_EXTENT_UNKNOWN = 0x2
FIEMAP_EXTENT_DELALLOC = 0x4
FIEMAP_EXTENT_ENCODED = 0x8
FIEMAP_EXTENT_DATA_INLINE = 0x200
FIEMAP_EXTENT_UNWRITTEN = 0x800
FIEMAP_EXTENT_MERGED = 0x1000
FIEMAP_EXTENT_SHARED = 0x2000

_HEADER: Final = struct.Struct("=QQIIII")  # struct fiemap: start, length, flags, mapped extents, room for, reserved
_EXTENT: Final = struct.Struct("=QQQ16xI12x")  # struct fiemap_extent: logical, physical, length, flags
_ROOM: Final = 64  # extents in one call
_TO_THE_END: Final = (1 << 64) - 1


class Extent(NamedTuple):
    """One piece of a file; in bytes."""

    logical: int
    physical: int
    length: int
    flags: int  # FIEMAP_EXTENT_*


def fiemap(fd: int, *, sync: bool = False) -> Iterator[Extent]:
    """FS_IOC_FIEMAP: yield the extents of an open file, holes left out.

    Args:
        fd: The file.
        sync: Write out what is only in memory first, so that everything has a place.

    Raises:
        OSError: EOPNOTSUPP, ENOTTY: the filesystem does not say.
    """
    begin = 0
    while True:
        buffer = bytearray(_HEADER.size + _ROOM * _EXTENT.size)
        flags = FIEMAP_FLAG_SYNC if sync else 0
        _HEADER.pack_into(buffer, 0, begin, _TO_THE_END - begin, flags, 0, _ROOM, 0)
        ioctl(fd, FS_IOC_FIEMAP, buffer, f"descriptor {fd}")
        count = _HEADER.unpack_from(buffer)[3]
        if not count:
            return
        for number in range(count):
            extent = Extent(*_EXTENT.unpack_from(buffer, _HEADER.size + number * _EXTENT.size))
            yield extent
            if extent.flags & FIEMAP_EXTENT_LAST:
                return
            begin = extent.logical + extent.length
