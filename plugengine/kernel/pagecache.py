"""See what of a file is in memory: mincore(2)."""

from __future__ import annotations

import ctypes
import mmap
import os
from ctypes import POINTER, c_size_t, c_ubyte, c_void_p

from plugengine.kernel.libc import declare, os_error

_PAGE = mmap.PAGESIZE
_RESIDENT = 1  # the other bits are reserved

_mincore = declare("mincore", c_void_p, c_size_t, POINTER(c_ubyte))


def resident_bytes(fd: int) -> tuple[int, int]:
    """Return how much of a file is in the page cache, and how long it is, both in bytes and the first in whole pages.

    The mapping is that of the file a filesystem reads from, so that for a file of a union it is the layer's.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        return 0, 0
    pages = (size + _PAGE - 1) // _PAGE
    vector = (c_ubyte * pages)()
    # A private mapping can be writable on a read-only descriptor, which is what ctypes needs to find its address.
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        first = ctypes.c_char.from_buffer(memory)
        try:
            if _mincore(ctypes.addressof(first), size, vector) != 0:
                raise os_error(ctypes.get_errno(), "mincore", f"/proc/self/fd/{fd}")
        finally:
            del first
    return min(size, sum(each & _RESIDENT for each in vector) * _PAGE), size
