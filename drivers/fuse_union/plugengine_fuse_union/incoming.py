"""Read requests, and poll for the next one for a moment before sleeping.

Who asks waits for the answer and, mostly, asks again at once. A server that sleeps has to be woken on another processor
each time, which takes longer than all the rest of a request. So it looks for the next request some fifty microseconds
long. Where that was in vain it sleeps for some requests, each time for more of them, so that what asks seldom, or from
the only processor, costs next to nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from io import FileIO
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import mmap

_LOOKS: Final = range(50)  # of a microsecond
_MOST_ASLEEP: Final = 256
# Ends a read for a reason that concerns one request only, such as that it was interrupted before; see fuse(4).
# There is nothing more to read: unmounted, or ended while requests were on their way (FUSE_ABORT_ERROR not asked for).
_ENDED: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})


def requests(fd: int, buffer: mmap.mmap | memoryview) -> Iterator[int]:
    """Read one request after the other and yield its length, until the filesystem is unmounted.

    Args:
        fd: A connection, from now on non-blocking at times; poll it before reading elsewhere.
        buffer: Filled with each request.
    """
    # A quarter quicker than os.readv, which builds a list of buffers each time.
    readinto = FileIO(fd, closefd=False).readinto
    looks = len(os.sched_getaffinity(0)) > 1
    patience = 1
    asleep = 0  # requests to be slept for
    os.set_blocking(fd, not looks)
    while True:
        try:
            end = readinto(buffer)
            if end is None:
                for _ in _LOOKS:
                    end = readinto(buffer)
                    if end is not None:
                        patience = 1
                        break
                else:
                    asleep, patience = patience, min(2 * patience, _MOST_ASLEEP)
                    os.set_blocking(fd, True)
                    continue
        except OSError as exc:
            if exc.errno in _AGAIN:
                continue
            if exc.errno in _ENDED:
                return
            raise
        yield end
        if asleep:
            asleep -= 1
            if not asleep:
                os.set_blocking(fd, False)
