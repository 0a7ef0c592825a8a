"""Work that may hang, crash or outlive its caller: a new interpreter does it, in a child for each task.

Who has work for another process starts an interpreter and never forks: it may have threads, whose locks would stay
locked in a child, and its descriptors and memory are its own. The interpreter has one thread, so it forks.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from plugengine.kernel import credentials, files
from plugengine.kernel.process import ProcessId

K = TypeVar("K")
_MESSAGE_BYTES: Final = 128 << 10
# -P, and the caller's path with what it had of the current directory left out: that may be anybody's by now.
_PROGRAM: Final = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from plugengine.workers import serve
serve(*sys.argv[2:])
"""


class Channel:
    """One end of a connection that carries whole messages; to close it does not end the work at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Channel:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Listen no longer."""
        self._connection.close()

    def send(self, message: bytes) -> None:
        """Send a message of up to 128 KiB, if there is still somebody who listens."""
        try:
            self._connection.send(message)
        except OSError:
            pass

    def messages(self, *, timeout_s: float | None = None) -> Iterator[bytes]:
        """Yield messages until nobody is left to send any, or until the time is over."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if until is not None:
                self._connection.settimeout(max(until - time.monotonic(), 0.001))
            try:
                message = self._connection.recv(_MESSAGE_BYTES)
            except (TimeoutError, ConnectionResetError):
                return
            if not message:
                return
            yield message


def start(name: bytes, entry: str, *words: str) -> Channel:
    """Have a new interpreter call a function in the background.

    Args:
        name: Of the process, up to 15 bytes.
        entry: "module:function"; it gets a channel to the caller, then the words.
        words: Further arguments.

    Raises:
        OSError: There is no room for another process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = json.dumps([directory for directory in sys.path if os.path.isabs(directory)])
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-c", _PROGRAM, path, os.fsdecode(name), entry, *words],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGCHLD, signal.SIGALRM),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    try:
        os.waitpid(pid, 0)  # it forks and leaves at once
    except ChildProcessError:
        pass  # the caller ignores SIGCHLD
    return Channel(ours)


def serve(name: str, entry: str, *words: str) -> None:
    """Be the new interpreter; its standard input is the connection to the caller."""
    if os.fork() != 0:
        os._exit(0)
    faulthandler.enable(2)
    files.close_range(3)
    os.chdir("/")
    os.umask(0o022)
    credentials.set_name(os.fsencode(name))
    module_name, _, function = entry.partition(":")
    module = __import__(module_name, fromlist=[function])
    getattr(module, function)(Channel(socket.socket(fileno=os.dup(0))), *words)


class End(NamedTuple, Generic[K]):
    """How the process of one task ended."""

    task: K
    process: ProcessId
    fault: str  # "was killed by SIGSEGV", "did not end within 60 s"; empty: it has done its work


class _Job(NamedTuple, Generic[K]):
    task: K
    process: ProcessId
    deadline: float
    late: bool = False  # it was killed because it did not end


class Pool(Generic[K]):
    """Does each task in a process of its own; for a process without threads.

    Args:
        work: Called with a task, in its process; what it raises is written to standard error.
        limit_s: How long a task may take; then its process is killed, with all it has started. 0: as long as it likes.
        at_once: How many processes there are at most.
    """

    def __init__(self, work: Callable[[K], None], *, limit_s: float, at_once: int) -> None:
        self._work = work
        self._limit_s = limit_s or math.inf
        self._at_once = at_once
        self._jobs: dict[int, _Job[K]] = {}  # by pidfd

    def run(self, tasks: Iterable[K]) -> Iterator[End[K]]:
        """Do all tasks; yield each when it has ended."""
        waiting = list(tasks)
        while waiting or self._jobs:
            while waiting and len(self._jobs) < self._at_once:
                self._begin(waiting.pop(0))
            yield from self._wait()

    def _begin(self, task: K) -> None:
        pid = os.fork()
        if pid == 0:
            self._do(task)
        os.setpgid(pid, pid)
        process = ProcessId.of(pid)
        assert process is not None  # noqa: S101 - it is our child, and nobody has waited for it
        self._jobs[os.pidfd_open(pid)] = _Job(task, process, time.monotonic() + self._limit_s)

    def _do(self, task: K) -> None:
        code = 1
        try:
            credentials.set_pdeathsig(signal.SIGKILL)
            self._work(task)
            code = 0
        except BaseException:  # noqa: BLE001 - the last frame of this process
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _wait(self) -> Iterator[End[K]]:
        """Wait until a process ends or is to be ended, and see to it."""
        poll = select.poll()
        for pidfd in self._jobs:
            poll.register(pidfd, select.POLLIN)
        wait_s = min(job.deadline for job in self._jobs.values()) - time.monotonic()
        ended = {fd for fd, _events in poll.poll(None if wait_s == math.inf else max(wait_s, 0) * 1000 + 1)}
        for pidfd, job in list(self._jobs.items()):
            if pidfd in ended:
                yield self._end(pidfd)
            elif time.monotonic() >= job.deadline:
                os.killpg(job.process.pid, signal.SIGKILL)
                self._jobs[pidfd] = job._replace(deadline=math.inf, late=True)

    def _end(self, pidfd: int) -> End[K]:
        job = self._jobs.pop(pidfd)
        _pid, status = os.waitpid(job.process.pid, 0)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return End(job.task, job.process, "")
        if job.late:
            return End(job.task, job.process, f"did not end within {self._limit_s:g} s")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return End(job.task, job.process, how)
