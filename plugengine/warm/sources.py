"""Notice that a source file of a loaded module was changed, so that no command runs yesterday's code."""

from __future__ import annotations

import os
import struct
import sys
import time
from typing import Final

from plugengine.kernel import inotify

_CHANGES: Final = (
    inotify.IN_MODIFY
    | inotify.IN_ATTRIB
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_DELETE_SELF
    | inotify.IN_MOVE_SELF
)
_EVENT: Final = struct.Struct("iIII")  # struct inotify_event, before its name
_READ_BYTES: Final = 64 << 10


class Sources:
    """The files of all modules of the project that are loaded; made before the first of them is imported."""

    def __init__(self) -> None:
        self._began_ns = time.time_ns()
        self._fd = -1
        self._times: dict[str, int] = {}
        self._changed = False

    def watch(self) -> None:
        """Look at what is loaded by now; where the kernel gives no watches, times are compared instead."""
        self._times = _times()
        self._changed = any(changed > self._began_ns for changed in self._times.values())
        try:
            self._fd = inotify.inotify_init()
            for directory in {os.path.dirname(path) for path in self._times}:
                inotify.inotify_add_watch(self._fd, directory, _CHANGES | inotify.IN_ONLYDIR)
        except OSError:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def changed(self) -> bool:
        """Tell whether any file was changed since it was loaded; true once, true for ever."""
        if not self._changed:
            self._changed = self._told() if self._fd >= 0 else self._times != _times()
        return self._changed

    def _told(self) -> bool:
        """Read the events there are: a module's file, or a directory itself."""
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        position = 0
        while position < len(events):
            _watch, _mask, _cookie, length = _EVENT.unpack_from(events, position)
            position += _EVENT.size
            name = events[position : position + length].rstrip(b"\0")
            position += length
            if not name or name.endswith(b".py"):
                return True
        return False


def _times() -> dict[str, int]:
    found: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith("plugengine") and path:
            try:
                found[path] = os.stat(path).st_mtime_ns
            except OSError:
                found[path] = 0
    return found
