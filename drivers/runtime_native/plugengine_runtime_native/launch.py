"""Bring processes into a container: clone the first, fork more for exec; the parent's side of `child`."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, RuntimeState, RuntimeStatus, Spawn
from plugengine.errors import ConflictError, DriverError
from plugengine.kernel import process
from plugengine.kernel.process import ProcessId
from plugengine.model import CgroupEntry, HostPath, Record
from plugengine.mounts import write_maps
from plugengine.namespaces import joined

from plugengine_runtime_native import child as inside
from plugengine_runtime_native.child.report import ERROR, PROCESS, TERMINAL, WARNING, Report
from plugengine_runtime_native.inside import InsidePlan, plan_inside
from plugengine_runtime_native.prepared import Prepared, may_trace, prepare, raise_rlimits
from plugengine_runtime_native.sources import open_sources

_GO: Final = b"+"
# A guest that hangs, or sends SIGSTOP to what joins it, must not hold its monitor, which serves others, for ever.
_DEADLINE_S: Final = 50

# What waits at its gate, by container: it belongs to the process that made it, which is also the one to let it go.
_held: dict[str, Child] = {}


class Child:
    """A process on its way into a container, held until `release`."""

    def __init__(
        self, pid: int, pidfd: int, *, go_fd: int, report_fd: int, prepared: Prepared, plan: InsidePlan | None
    ) -> None:
        self.pid: int = pid
        self.warnings: list[str] = []
        self.terminal: int | None = None
        self._pidfd = pidfd
        self._go_fd = go_fd
        self._report_fd = report_fd
        self._prepared = prepared
        self._plan = plan

    def release(self) -> RuntimeProcess:
        """Let it go, and return once it has become the command; what ties it to us is still to be closed.

        Raises:
            CommandNotFoundError, NotExecutableError: The command.
            DriverError: Something before that.
        """
        try:
            raise_rlimits(self.pid, self._prepared.rlimits)
            os.write(self._go_fd, _GO)
            self._listen()
        except BaseException:
            if self.terminal is not None:
                os.close(self.terminal)
            raise
        return RuntimeProcess(pid=self.pid, terminal=self.terminal, warnings=tuple(self.warnings))

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._report_fd, select.POLLIN)
        while True:
            if not poll.poll(_DEADLINE_S * 1000):
                raise DriverError(
                    f"run {os.fsdecode(self._prepared.argv[0])}: not running after {_DEADLINE_S} s",
                    hint="a filesystem of the container does not answer, or a process in it stopped the new one",
                )
            report = inside.read_report(self._report_fd)
            if report is None:
                return
            self._take(report)

    def _take(self, report: Report) -> None:
        if report.kind == ERROR:
            raise inside.explain(report, self._prepared, self._plan)
        if report.kind == WARNING:
            self.warnings.append(str(inside.explain(report, self._prepared, self._plan)))
        elif report.kind == TERMINAL:
            self.terminal = report.fd
        elif report.kind == PROCESS:
            self._replace(report.number, report.fd)

    def _replace(self, pid: int, pidfd: int) -> None:
        """The process that stays is another one; the one between is reaped."""
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self.pid, self._pidfd = pid, pidfd

    def end(self) -> None:
        """Kill and reap it; for one that nobody was told of."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self.close()

    def close(self) -> None:
        """Close what ties it to us: the gate, which ends it if it still waits there, and its reports."""
        for fd in (self._go_fd, self._report_fd, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._go_fd = self._report_fd = self._pidfd = -1


class _Ties:
    """The pipe a child waits at and the socket it reports on, both ends, until one of them is the child's alone."""

    def __init__(self) -> None:
        self.gate, self._go = os.pipe2(os.O_CLOEXEC)
        self._ours, self.reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> _Ties:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        os.close(self.gate)
        self.reports.close()
        if kind is not None:
            os.close(self._go)
            self._ours.close()

    def child(self, pid: int, pidfd: int, prepared: Prepared, plan: InsidePlan | None = None) -> Child:
        """Return the child; our ends are its from now on."""
        report_fd = self._ours.detach()
        return Child(pid, pidfd, go_fd=self._go, report_fd=report_fd, prepared=prepared, plan=plan)


def create(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    """Clone the first process and hold it at its gate: in its namespaces, with their maps, on its way to its cgroup.

    Raises:
        PlugengineError: Nothing is left of it.
    """
    user_map = bundle.namespaces.user_map
    plan = plan_inside(bundle)
    prepared = prepare(bundle.process, user_namespace=user_map is not None, filters=_filters(request.shared))
    held = _clone(bundle, spawn, plan, prepared)
    try:
        if user_map is not None:
            write_maps(held.pid, user_map)
        _set_oom_score(held.pid, bundle.process.oom_score_adj)
        started = process.process_start_time(held.pid) or 0  # not reaped: it is there
    except BaseException:
        held.end()
        raise
    _held[bundle.container_id] = held
    record = {"pid": held.pid, "start_time": started, "may_trace": may_trace(bundle)}
    return RuntimeProcess(pid=held.pid, record=record)


def _clone(bundle: Bundle, spawn: Spawn, plan: InsidePlan, prepared: Prepared) -> Child:
    with (
        _Ties() as ties,
        open_sources(plan) as sources,
        _entrance(spawn.cgroup) as (cgroup_fd, tasks),
        joined(bundle.namespaces) as flags,
        process.bare_children(),
    ):
        pid, pidfd = process.clone3(flags, cgroup_fd=cgroup_fd)
        if pid == 0:
            inside.become_init(
                plan,
                prepared,
                sources=sources,
                go_fd=ties.gate,
                report_fd=ties.reports.fileno(),
                stdio=spawn.stdio,
                unshare_flags=bundle.namespaces.unshare_flags,
                enter=tasks,
            )
    return ties.child(pid, pidfd, prepared, plan)


def start(container_id: str) -> RuntimeProcess:
    """Open the gate, and return once the first process has become the command; raises as `Child.release`."""
    held = _held.pop(container_id, None)
    if held is None:
        raise DriverError(f"container {container_id}: nothing of it waits to be started in this process")
    try:
        return held.release()
    finally:
        held.close()


def run(request: RuntimeRequest, record: Record, command: Process, spawn: Spawn) -> RuntimeProcess:
    """Run another command in a running container.

    Args:
        request: The container.
        command: The command.
        spawn: Its streams and group.
        record: What `create` returned for the container.

    Raises:
        CommandNotFoundError, NotExecutableError, PlugengineError: It does not run.
    """
    pidfd = process.open_pidfd(first_process(record))
    if pidfd is None:
        raise ConflictError(f"container {request.container_id}: has just ended")
    try:
        namespaces = inside.namespaces_of(int(record["pid"]))
        prepared = prepare(
            command,
            user_namespace=bool(namespaces & process.CLONE_NEWUSER),
            filters=_filters(request.shared),
            hostile=True,
            traceable=bool(record["may_trace"]),
        )
        return _exec(command, spawn, prepared, pidfd=pidfd, namespaces=namespaces)
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise ConflictError(f"container {request.container_id}: has just ended") from exc
    finally:
        os.close(pidfd)


def _exec(command: Process, spawn: Spawn, prepared: Prepared, *, pidfd: int, namespaces: int) -> RuntimeProcess:
    with _Ties() as ties, _entrance(spawn.cgroup) as (cgroup_fd, tasks), process.bare_children():
        pid, child_pidfd = process.clone3(0, cgroup_fd=cgroup_fd)
        if pid == 0:
            inside.become_exec(
                prepared,
                pidfd=pidfd,
                namespaces=namespaces,
                go_fd=ties.gate,
                report_fd=ties.reports.fileno(),
                stdio=spawn.stdio,
                enter=tasks,
            )
    child = ties.child(pid, child_pidfd, prepared)
    try:
        _set_oom_score(pid, command.oom_score_adj)
        made = child.release()
    except BaseException:
        child.end()
        raise
    child.close()
    return made


def kill(record: Record, number: int) -> None:
    """Send a signal to the first process. Raises: ConflictError: it has ended."""
    if not process.send_signal(first_process(record), number):
        raise ConflictError(f"process {record['pid']}: has just ended")


def state(container_id: str, record: Record) -> RuntimeState:
    """Return where the first process is."""
    first = first_process(record)
    pidfd = process.open_pidfd(first)
    if pidfd is None:
        return RuntimeState(status=RuntimeStatus.STOPPED)
    with os.fdopen(pidfd, "rb") as opened:
        if select.select([opened], [], [], 0)[0]:  # ended, and not reaped yet
            return RuntimeState(status=RuntimeStatus.STOPPED)
    status = RuntimeStatus.CREATED if container_id in _held else RuntimeStatus.RUNNING
    return RuntimeState(status=status, pid=first.pid)


def delete(container_id: str) -> None:
    """End the first process if it still waits at its gate in this process; one that runs is its reaper's to end."""
    held = _held.pop(container_id, None)
    if held is not None:
        held.close()


def first_process(record: Record) -> ProcessId:
    """Return the first process a record names."""
    return ProcessId(int(record["pid"]), int(record["start_time"]))


def _filters(shared: HostPath) -> HostPath:
    return HostPath(f"{shared}/seccomp")


def _set_oom_score(pid: int, score: int | None) -> None:
    """See proc_pid_oom_score_adj(5)."""
    if score is not None:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(score))


@contextmanager
def _entrance(entry: CgroupEntry | None) -> Iterator[tuple[int | None, tuple[int, ...]]]:
    """Open what a process about to be cloned needs to enter the container's group by itself."""
    if entry is None:
        yield None, ()
        return
    opened: list[int] = []
    try:
        group = None
        if entry.clone_into is not None:
            group = os.open(entry.clone_into, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.append(group)
        tasks = tuple(os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in entry.tasks)
        opened += tasks
        yield group, tasks
    finally:
        for fd in opened:
            os.close(fd)
