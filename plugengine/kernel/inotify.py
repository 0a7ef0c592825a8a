"""Be told that files change instead of looking at each; see inotify(7)."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int, c_uint32, get_errno

from plugengine.kernel.libc import declare, encode, os_error

# include/uapi/linux/inotify.h
IN_MODIFY = 0x00000002
IN_ATTRIB = 0x00000004
IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_ONLYDIR = 0x01000000

_inotify_init1 = declare("inotify_init1", c_int)
_inotify_add_watch = declare("inotify_add_watch", c_int, c_char_p, c_uint32)


def inotify_init() -> int:
    """inotify_init1(2): return a descriptor, close-on-exec and non-blocking, that reads events of its watches.

    Raises:
        OSError: EMFILE: the user has too many, see /proc/sys/fs/inotify.
    """
    fd = _inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise os_error(get_errno(), "inotify_init1", "inotify")
    return int(fd)


def inotify_add_watch(fd: int, path: str | bytes, mask: int) -> int:
    """inotify_add_watch(2): watch a file, or a directory and the files in it; return the watch's number.

    Raises:
        OSError: ENOENT; ENOSPC: too many watches.
    """
    number = _inotify_add_watch(fd, encode(path), mask)
    if number < 0:
        raise os_error(get_errno(), "inotify_add_watch", path)
    return int(number)
