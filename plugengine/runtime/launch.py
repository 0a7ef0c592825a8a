"""Bring processes into a container: clone the first, fork more for exec; the parent's side of `runtime.child`."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import Struct

from plugengine.errors import ConflictError, DriverError
from plugengine.kernel import process
from plugengine.kernel.process import ProcessId
from plugengine.model import HostPath, NamespacePlan, Record, UserMap, short_id
from plugengine.plugins.drivers import DriverSet
from plugengine.runtime import accounts
from plugengine.runtime import child as inside
from plugengine.runtime.child.report import ERROR, PROCESS, TERMINAL, WARNING, Report
from plugengine.runtime.enter_namespaces import joined
from plugengine.runtime.guest import (
    GuestPlan,
    GuestRequest,
    ProcessPlan,
    ProcessRequest,
    capability_set,
    open_sources,
    plan_exec,
    plan_guest,
    plan_process,
    raise_rlimits,
)
from plugengine.security import capabilities, seccomp
from plugengine.site import Site
from plugengine.spec import ContainerSpec, ExecSpec, ImageConfig
from plugengine.state.container_rows import ContainerRow
from plugengine.streams import wire
from plugengine.streams.stdio import Pipes, Stdio

_GO: Final = b"+"
# A guest that hangs, or sends SIGSTOP to what joins it, must not hold its monitor, which serves others, for ever.
_DEADLINE_S: Final = 60


class Launch(Struct, frozen=True, kw_only=True):
    """What the first process of a container is made from."""

    site: Site
    guest: GuestRequest
    namespaces: NamespacePlan
    drivers: DriverSet


class Child:
    """A process on its way into a container, held until `release`; afterwards the command itself."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        *,
        go_fd: int,
        report_fd: int,
        pipes: Pipes,
        plan: ProcessPlan,
        guest: GuestPlan | None,
    ) -> None:
        self.pid: int = pid
        self.warnings: list[str] = list(plan.warnings)
        self._pidfd: int | None = pidfd
        self._go_fd = go_fd
        self._report_fd = report_fd
        self._pipes = pipes
        self._plan = plan
        self._guest = guest
        self._master: int | None = None
        self._ended = False

    def release(self) -> None:
        """Let it go, and return once it has become the command.

        Raises:
            CommandNotFoundError, NotExecutableError: The command.
            DriverError: Something before that.
        """
        raise_rlimits(self.pid, self._plan.rlimits)
        os.write(self._go_fd, _GO)
        os.close(self._go_fd)
        self._go_fd = -1
        poll = select.poll()
        poll.register(self._report_fd, select.POLLIN)
        try:
            while True:
                if not poll.poll(_DEADLINE_S * 1000):
                    raise DriverError(
                        f"run {os.fsdecode(self._plan.argv[0])}: not running after {_DEADLINE_S} s",
                        hint="a filesystem of the container does not answer, or a process in it stopped the new one",
                    )
                report = inside.read_report(self._report_fd)
                if report is None:
                    break
                self._take(report)
        finally:
            os.close(self._report_fd)
            self._report_fd = -1
        self._pipes.close_guest_ends()

    def _take(self, report: Report) -> None:
        if report.kind == ERROR:
            raise inside.explain(report, self._plan, self._guest)
        if report.kind == WARNING:
            self.warnings.append(str(inside.explain(report, self._plan, self._guest)))
        elif report.kind == TERMINAL:
            self._master = report.fd
        elif report.kind == PROCESS:
            self._replace(report.number, report.fd)

    def _replace(self, pid: int, pidfd: int) -> None:
        """The process that stays is another one; the one between is reaped."""
        if self._pidfd is not None:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
        self.pid, self._pidfd = pid, pidfd

    def take_stdio(self) -> Stdio:
        """Hand the monitor's ends of the streams over."""
        if self._master is not None:
            master, self._master = self._master, None
            return Stdio(stdin=master, outputs={master: wire.STDOUT}, tty=True)
        return self._pipes.take()

    def take_pidfd(self) -> int:
        """Hand the pidfd over; who has it reaps the process."""
        assert self._pidfd is not None  # noqa: S101 - taken once
        pidfd, self._pidfd = self._pidfd, None
        return pidfd

    def signal(self, number: int) -> None:
        """Send a signal, unless the process was handed over."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass

    def end(self) -> None:
        """Kill and reap it, unless it was handed over; close what is still open."""
        if self._ended:
            return
        self._ended = True
        self.signal(signal.SIGKILL)
        if self._pidfd is not None:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._pidfd = None
        for fd in (self._go_fd, self._report_fd, self._master):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._pipes.close()


class _Held:
    """What ties a child to us until it is let go: the pipe it waits at, the socket it reports on, its streams."""

    def __init__(self, plan: ProcessPlan, *, interactive: bool) -> None:
        self._plan = plan
        self._pipes = Pipes(tty=plan.tty, interactive=interactive)
        self.streams = self._pipes.guest
        self.gate, self._go = os.pipe2(os.O_CLOEXEC)
        self._ours, self.reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        os.close(self.gate)
        self.reports.close()
        if kind is not None:
            os.close(self._go)
            self._ours.close()
            self._pipes.close()

    def child(self, pid: int, pidfd: int, guest: GuestPlan | None = None) -> Child:
        """Return the child; our ends are its from now on."""
        report_fd = self._ours.detach()
        return Child(pid, pidfd, go_fd=self._go, report_fd=report_fd, pipes=self._pipes, plan=self._plan, guest=guest)


def clone_first(launch: Launch, cgroup: Record | None) -> Child:
    """Clone the first process; its root filesystem is mounted and its control group made.

    Raises:
        PlugengineError: Nothing is left of it.
    """
    request = _with_cgroups(launch, cgroup)
    for path in request.etc_files.values():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    guest = plan_guest(request)
    plan = plan_process(
        _process_request(
            launch.site,
            request.spec,
            request.config,
            request.hostname,
            request.rootfs,
            request.user_map,
            platform=request.platform,
        )
    )
    with (
        _Held(plan, interactive=request.spec.interactive) as held,
        open_sources(guest) as sources,
        _entrance(launch.drivers, cgroup) as (cgroup_fd, tasks),
        joined(launch.namespaces) as flags,
        process.bare_children(),
    ):
        pid, pidfd = process.clone3(flags, cgroup_fd=cgroup_fd)
        if pid == 0:
            inside.become_init(
                guest,
                plan,
                sources=sources,
                go_fd=held.gate,
                report_fd=held.reports.fileno(),
                stdio=held.streams,
                unshare_flags=launch.namespaces.unshare_flags,
                enter=tasks,
            )
    return held.child(pid, pidfd, guest)


def _with_cgroups(launch: Launch, cgroup: Record | None) -> GuestRequest:
    if cgroup is None:
        return launch.guest
    mounts = launch.drivers.cgroup.mounts(cgroup, HostPath("/"))
    return msgspec.structs.replace(launch.guest, cgroup_mounts=mounts)


def _process_request(
    site: Site,
    spec: ContainerSpec,
    config: ImageConfig,
    hostname: str,
    rootfs: HostPath,
    user_map: UserMap | None,
    *,
    platform: str,
    privileged: bool = False,
) -> ProcessRequest:
    bits = capabilities.resolve((), (), privileged=True) if privileged else capability_set(spec)
    profile = "unconfined" if spec.privileged and spec.seccomp == "default" else spec.seccomp
    return ProcessRequest(
        spec=spec,
        config=config,
        hostname=hostname,
        accounts=accounts.read_accounts(rootfs),
        seccomp=seccomp.program(profile, bits, HostPath(f"{site.locations.root}/seccomp")),
        user_map=user_map,
        platform=platform,
    )


@contextmanager
def _entrance(drivers: DriverSet, cgroup: Record | None) -> Iterator[tuple[int | None, tuple[int, ...]]]:
    """Open what a process about to be cloned needs to enter the container's group by itself."""
    entry = None if cgroup is None else drivers.cgroup.entry(cgroup)
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


def join_cgroup(drivers: DriverSet, cgroup: Record | None, pid: int) -> None:
    """Move a process into the container's group, where it does not enter by itself."""
    if cgroup is not None and drivers.cgroup.entry(cgroup) is None:
        drivers.cgroup.join(cgroup, pid)


def start_exec(site: Site, row: ContainerRow, drivers: DriverSet, cgroup: Record | None, spec: ExecSpec) -> Child:
    """Run another command in a running container, from its monitor.

    Raises:
        CommandNotFoundError, NotExecutableError, PlugengineError: It does not run.
    """
    stored = row.records.get("user_map")
    user_map = msgspec.convert(stored, UserMap) if stored else None
    config = msgspec.convert(row.records.get("config") or {}, ImageConfig)
    pidfd = process.open_pidfd(ProcessId(row.state.pid, row.state.pid_start))
    if pidfd is None:
        raise ConflictError(f"container {row.name}: has just ended")
    try:
        request = _process_request(
            site,
            row.spec,
            config,
            row.spec.hostname or short_id(row.id),
            site.locations.rootfs(row.id),
            user_map,
            platform=row.records.get("platform", ""),
            privileged=spec.privileged,
        )
        namespaces = inside.namespaces_of(row.state.pid)
        return _fork_exec(drivers, cgroup, plan_exec(request, spec), spec, pidfd=pidfd, namespaces=namespaces)
    except (FileNotFoundError, ProcessLookupError) as exc:
        raise ConflictError(f"container {row.name}: has just ended") from exc
    finally:
        os.close(pidfd)


def _fork_exec(
    drivers: DriverSet, cgroup: Record | None, plan: ProcessPlan, spec: ExecSpec, *, pidfd: int, namespaces: int
) -> Child:
    with (
        _Held(plan, interactive=spec.interactive) as held,
        _entrance(drivers, cgroup) as (cgroup_fd, tasks),
        process.bare_children(),
    ):
        pid, child_pidfd = process.clone3(0, cgroup_fd=cgroup_fd)
        if pid == 0:
            inside.become_exec(
                plan,
                pidfd=pidfd,
                namespaces=namespaces,
                go_fd=held.gate,
                report_fd=held.reports.fileno(),
                stdio=held.streams,
                enter=tasks,
            )
    child = held.child(pid, child_pidfd)
    try:
        join_cgroup(drivers, cgroup, pid)
        child.release()
    except BaseException:
        child.end()
        raise
    return child
