"""Recover containers in the background: one process for each, all watched by one that nobody waits for.

A command that finds a container without an owner starts the watcher as a new interpreter, never as a fork of itself:
it may have threads, and its descriptors are its own. What becomes of each container is sent to the starter, who listens
as long as it likes. A container whose recovery does not end is given up; see `recovery.give_up`.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec
from msgspec import Struct

from plugengine.kernel.process import ProcessId

if TYPE_CHECKING:
    from plugengine.operations.recovery import Finding
    from plugengine.site import Site
    from plugengine.state.container_rows import ContainerRow

NAME: Final = b"pe-recovery"
_AT_ONCE: Final = 8
_MESSAGE_BYTES: Final = 64 << 10
# -P: nothing is imported from the directory the caller happens to be in. The package may be on the caller's path only.
_PROGRAM: Final = """
import sys
sys.path.append(sys.argv[1])
from plugengine.operations.recovery_worker import main
main(*sys.argv[2:])
"""


class Report(Struct, frozen=True, kw_only=True):
    """What became of one container."""

    container_id: str
    what: str = ""  # as of `recovery.Finding`; empty: somebody else was faster
    repaired: bool = True


class Worker:
    """The starter's end; closing it does not end the work."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __enter__(self) -> Worker:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Listen no longer."""
        self._connection.close()

    def reports(self, *, timeout_s: float | None = None) -> Iterator[Report]:
        """Yield what became of each container, until the last one or until the time is over."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if until is not None:
                self._connection.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = self._connection.recv(_MESSAGE_BYTES)
            except (TimeoutError, ConnectionResetError):
                return
            if not data:
                return
            yield msgspec.json.decode(data, type=Report)


def start(site: Site, *, dead: bool = False) -> Worker:
    """Start the recovery of every container without an owner, with `dead` also of those that could not be removed.

    Raises:
        OSError: There is no room for another process.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    words = [sys.executable, "-P", "-c", _PROGRAM, package, site.locations.root, site.locations.run_root]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [*words, "dead"] if dead else words,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGCHLD,),
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
    return Worker(ours)


def main(root: str, run_root: str, dead: str = "") -> None:
    """Be the watcher, in a new interpreter whose standard input is the connection to its starter."""
    if os.fork() != 0:
        os._exit(0)
    from plugengine.kernel import credentials, files
    from plugengine.site import Site
    from plugengine.state.locations import Locations

    files.close_range(3)
    os.chdir("/")
    os.umask(0o022)
    credentials.set_name(NAME)
    site = Site(Locations.from_environment({}, root=root, run_root=run_root), environ=os.environ)
    log = os.open(
        site.locations.recovery_log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    os.dup2(log, 2)
    _Watcher(site, socket.socket(fileno=os.dup(0))).run(dead=bool(dead))


class _Job(NamedTuple):
    row: ContainerRow
    process: ProcessId
    deadline: float
    late: bool = False  # it was killed because it did not end


class _Watcher:
    """Starts a process for each container, and ends those that take too long."""

    def __init__(self, site: Site, connection: socket.socket) -> None:
        from plugengine.plugins import deadlines

        self._site = site
        self._connection = connection
        self._limit_s = deadlines.recovery_s() or math.inf
        self._jobs: dict[int, _Job] = {}  # by pidfd

    def run(self, *, dead: bool) -> None:
        """Recover all there are; returns when the last one has ended or was given up."""
        from plugengine.state import container_rows

        waiting = container_rows.abandoned(self._site.state)
        if dead:
            waiting += container_rows.list_all(self._site.state, ("dead",))
        while waiting or self._jobs:
            while waiting and len(self._jobs) < _AT_ONCE:
                self._begin(waiting.pop())
            self._wait()

    def _begin(self, row: ContainerRow) -> None:
        pid = os.fork()
        if pid == 0:
            self._work(row)
        os.setpgid(pid, pid)  # with what a driver starts, to be killed with it
        process = ProcessId.of(pid)
        assert process is not None  # noqa: S101 - it is our child, and nobody has waited for it
        self._jobs[os.pidfd_open(pid)] = _Job(row, process, time.monotonic() + self._limit_s)

    def _work(self, row: ContainerRow) -> NoReturn:
        """Recover one container, in a process of its own."""
        from plugengine.kernel import credentials
        from plugengine.operations import recovery
        from plugengine.state import container_rows

        code = 1
        try:
            credentials.set_pdeathsig(signal.SIGKILL)
            claimed = container_rows.claim(self._site.state, row)
            self._tell(row, recovery.recover(self._site, row) if claimed else None)
            code = 0
        except BaseException:  # noqa: BLE001 - the last frame of this process
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _wait(self) -> None:
        """Wait until a process ends or is to be ended, and see to it."""
        poll = select.poll()
        for pidfd in self._jobs:
            poll.register(pidfd, select.POLLIN)
        first = min(job.deadline for job in self._jobs.values())
        wait_s = max(first - time.monotonic(), 0)
        ended = {fd for fd, _events in poll.poll(None if wait_s == math.inf else wait_s * 1000 + 1)}
        for pidfd, job in list(self._jobs.items()):
            if pidfd in ended:
                self._end(pidfd)
            elif time.monotonic() >= job.deadline:
                os.killpg(job.process.pid, signal.SIGKILL)
                self._jobs[pidfd] = job._replace(deadline=math.inf, late=True)

    def _end(self, pidfd: int) -> None:
        from plugengine.operations import recovery

        job = self._jobs.pop(pidfd)
        _pid, status = os.waitpid(job.process.pid, 0)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why = f"its recovery did not end within {self._limit_s:g} s" if job.late else f"its recovery {how}"
        self._tell(job.row, recovery.give_up(self._site, job.row, job.process, why))

    def _tell(self, row: ContainerRow, finding: Finding | None) -> None:
        report = Report(container_id=row.id)
        if finding is not None:
            report = Report(container_id=row.id, what=finding.what, repaired=finding.repaired)
        try:
            self._connection.send(msgspec.json.encode(report))
        except OSError:
            pass  # nobody listens any more
