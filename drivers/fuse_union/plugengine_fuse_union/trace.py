"""Write down which files of layers are opened and executed, one JSON object a line (option `trace`)."""

from __future__ import annotations

import _thread
import errno
import json
import os
import stat
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import protocol
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.layers import root_of
from plugengine_fuse_union.nodes import path_of
from plugengine_fuse_union.opened import WRITES
from plugengine_fuse_union.protocol import BODY, IN_HEADER, Opcode

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Answer, Connection, Handler

_FMODE_EXEC: Final = 0x20  # include/linux/fs.h: the kernel opens what execve(2) runs with it
_PID_INDEX: Final = 6  # in IN_HEADER
_DELAY_S: Final = 0.5  # that a line may wait for others
_MOST_WAITING: Final = 4096
_OPEN_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Trace:
    """The file and the lines on their way to it; they are written together, at the latest half a second later.

    Nothing that goes wrong here makes a request fail: the first error ends the trace and is one line in the log.
    """

    def __init__(self, path: str) -> None:
        """Open the file, made if it is not there; lines are added to it.

        Raises:
            OSError: It cannot be opened, or is no regular file.
        """
        self._fd = os.open(path, _OPEN_FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            error = refused(errno.EINVAL)
            error.filename = path
            raise error
        self._lines: deque[str] = deque()
        self._awaited = False
        self.broken = False

    def add(self, operation: str, path: str, layer: int, pid: int) -> None:
        """Add a line."""
        event = {"op": operation, "path": path, "layer": layer, "pid": pid, "time": round(time.time(), 3)}
        self._lines.append(json.dumps(event) + "\n")
        if len(self._lines) >= _MOST_WAITING:
            self.flush()
        elif not self._awaited:
            self._awaited = True
            _thread.start_new_thread(self._flush_later, ())

    def _flush_later(self) -> None:
        time.sleep(_DELAY_S)
        self._awaited = False
        self.flush()

    def flush(self) -> None:
        """Write what is waiting; any thread and a signal handler may call this."""
        parts = []
        try:
            while True:
                parts.append(self._lines.popleft())
        except IndexError:
            pass
        data = "".join(parts).encode()
        try:
            while data and not self.broken:
                data = data[os.write(self._fd, data) :]
        except OSError as exc:
            self.broken = True
            sys.stderr.write(f"fuse_union: trace: {exc.strerror}; nothing more is written to it\n")


def install_trace(connection: Connection, trace: Trace) -> None:
    """Stand before OPEN, the one request that every open and execution of a file makes."""
    union = connection.union
    roots = {layer: index for index, layer in enumerate(reversed(union.root.lowers))}

    def wrapper(inner: Handler) -> Handler:
        def opened(nodeid: int, end: int) -> Answer:
            node = union.nodes.get(nodeid)
            lower = None if node is None else node.lower if node.data is None else node.data.directory
            if node is None or lower is None or trace.broken:
                return inner(nodeid, end)
            flags, _ = protocol.OPEN_IN.unpack_from(connection.buffer, BODY)
            pid = IN_HEADER.unpack_from(connection.buffer)[_PID_INDEX]
            answer = inner(nodeid, end)
            trace.add(_operation(flags), path_of(node), roots[root_of(lower)], pid)
            return answer

        return opened

    connection.wrap(Opcode.OPEN, wrapper)


def _operation(flags: int) -> str:
    if flags & _FMODE_EXEC:
        return "exec"
    return "write" if flags & WRITES else "open"
