"""Run a piece of work in a process, a session and namespaces of its own, within a deadline, and see what it leaves.

Two processes are forked. The keeper is the host of the work: it has the mount namespace (for networks also a network
namespace), is the subreaper of everything started in it, and ends it. The worker is its child, in which a driver runs.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from plugengine.model import HostPath
from plugengine.testing.leaks import Board
from plugengine.testing.outcome import Verdict

_READ_BYTES: Final = 1 << 16


class Result(Struct, frozen=True, kw_only=True):
    """What the worker says of itself, and the keeper of the worker."""

    verdict: Verdict = Verdict.PASSED
    message: str = ""
    leaks: tuple[str, ...] = ()
    traceback: str = ""
    log: str = ""
    duration_s: float = 0.0
    value: Any = None


class Ground(Struct, frozen=True, kw_only=True):
    """Where work is done."""

    directory: HostPath  # an empty directory is made below it for each piece
    device: str | None = None  # block device to be mounted at `directory`, in the namespace of the work
    fstype: str = ""
    private_network: bool = False  # a network namespace of its own takes the place of the host's
    protected: bool = False  # the host's lasting filesystems are read-only but for `directory`


class Work(Struct, frozen=True, kw_only=True):
    """One piece of work."""

    name: str  # of its directory
    deadline_s: float
    run: Callable[[HostPath, Board], Result]


class Running:
    """Work in progress; `pipe` is readable when there is something to read or it has ended."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self.started: float = time.monotonic()
        self._content = b""

    def read(self) -> bool:
        """Take what it has written; False: that was all."""
        chunk = os.read(self.pipe, _READ_BYTES)
        self._content += chunk
        return bool(chunk)

    def finish(self) -> Result:
        """Wait for its end and return the result."""
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        try:
            return msgspec.json.decode(self._content, type=Result)
        except msgspec.DecodeError:
            how = ending(os.waitstatus_to_exitcode(status))
            return Result(verdict=Verdict.FAILED, message=f"the process that watched over the case {how}")

    def abandon(self) -> Result:
        """Kill it without waiting for what it has started."""
        os.kill(self.pid, signal.SIGKILL)
        self.finish()
        message = "the process that watched over the case hung and was killed"
        return Result(verdict=Verdict.FAILED, message=message, duration_s=time.monotonic() - self.started)

    def end(self) -> None:
        """Have it end everything it has started, then itself."""
        os.kill(self.pid, signal.SIGTERM)  # a child of ours, not waited for


def start(work: Work, ground: Ground) -> Running:
    """Begin a piece of work and return at once."""
    from plugengine.testing.keeper import keep  # which needs the values above

    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        keep(work, ground, write_end, parent)
    os.close(write_end)
    return Running(pid, read_end)


def send(pipe: int, result: Result) -> None:
    """Write a result to whoever waits for it."""
    content = msgspec.json.encode(result)
    while content:
        content = content[os.write(pipe, content) :]


def ending(code: int) -> str:
    """Say how a process ended that did not report, by its exit code as `os.waitstatus_to_exitcode` has it."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with {code} before it could report"
