"""What happens to a container after it was made: start, stop, kill, pause, wait, remove."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from plugengine.containers.failed_start import not_loaded, not_started, put_back
from plugengine.containers.plan import StartPlan, plan_start
from plugengine.containers.requests import runtime_request
from plugengine.errors import ConflictError, NotFoundError, PlugengineError, StateError
from plugengine.kernel import process
from plugengine.kernel.process import ProcessId, boot_id, open_pidfd
from plugengine.plugins.drivers import RuntimeDriver
from plugengine.plugins.observers import Observers
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE, ContainerRow
from plugengine.streams import attach_client, wire
from plugengine.streams.attach_client import Outcome, Session, Streams

DEFAULT_STOP_S: Final = 10
STARTABLE: Final = ("created", "exited")
_REMOVE_WAIT_S: Final = 15.0
_START_WAIT_S: Final = 30.0
_LOOK_AGAIN_S: Final = 0.02
_RECOVERY_WAIT_S: Final = 2.0  # it takes a third of a second, most of it the start of an interpreter
_KILL_AGAIN_S: Final = 0.5

Log = Callable[[str], None]


def start(
    site: Site,
    row: ContainerRow,
    *,
    streams: Streams | None,
    plan: StartPlan | None = None,
    debug: bool = False,
    log: Log | None = None,
    warn: Log | None = None,
) -> Outcome | None:
    """Start a container, by a plan made just now or by a new one; with streams, stay connected until it ends.

    Returns:
        How it ended, or None when not connected.

    Raises:
        ConflictError: It runs already, or somebody else works on it.
        CommandNotFoundError, NotExecutableError: Its command.
        PlugengineError: Something else; the container is as it was before.
    """
    row = settled(site, row)
    if row.status in LIVE:
        raise ConflictError(f"container {row.name}: is {row.status} already")
    if row.status == "dead":
        raise ConflictError(
            f"container {row.name}: is dead: {row.state.error}", hint=f"remove it: pe rm --force {row.name}"
        )
    if not os.path.isdir(site.locations.container(row.id)):
        raise StateError(
            f"container {row.name}: its directory {site.locations.container(row.id)} is gone",
            hint=f"nothing of it is left to start; remove it: pe rm {row.name}",
        )
    container_rows.update(
        site.state, row.id, status="starting", expect=STARTABLE, owner=ProcessId.of(os.getpid()), boot_id=boot_id()
    )
    row = msgspec.structs.replace(row, status="starting")
    connection = _spawn(site, row, plan or _plan(site, row), attach=streams is not None, debug=debug)
    try:
        if streams is None:
            event = attach_client.read_event(connection, log=log)
            if event.get("event") == "error":
                attach_client.raise_error(event)
            if warn is not None:
                for warning in event.get("warnings", ()):
                    warn(str(warning))
            return None
        return Session(connection, streams, tty=row.spec.tty, log=log, warn=warn).run()
    except StateError as exc:
        raise _with_culprit(site, row, exc) from exc
    finally:
        connection.close()


def _with_culprit(site: Site, row: ContainerRow, error: StateError) -> StateError:
    """Return an error about a monitor that is gone, with the hook of a plugin in it that it ended in."""
    try:
        monitor = container_rows.get(site.state, row.id).owner
    except PlugengineError:
        return error
    hook = site.registry.calls.find(monitor)
    if not hook:
        return error
    return StateError(f"container {row.name}: its monitor ended during {hook}", hint=error.hint)


def _plan(site: Site, row: ContainerRow) -> StartPlan:
    """Plan the start of a container that is ours; where that fails, its row says why."""
    try:
        drivers = site.drivers(row.choice)
    except PlugengineError as exc:
        not_loaded(site, row, exc)
        raise
    try:
        return plan_start(site, row, drivers)
    except PlugengineError as exc:
        not_started(site, row, drivers.storage, exc)
        raise
    except BaseException:
        put_back(site, row)
        raise


def _spawn(site: Site, row: ContainerRow, plan: StartPlan, *, attach: bool, debug: bool) -> socket.socket:
    from plugengine.monitor.main import spawn
    from plugengine.monitor.task import Task

    def prepare() -> None:
        import plugengine.monitor.supervisor  # noqa: F401 - the monitor's pages, shared

    owner = ProcessId.of(os.getpid())
    assert owner is not None  # noqa: S101 - we are alive
    try:
        return spawn(site, Task(row=row, plan=plan, owner=owner, attach=attach, debug=debug), prepare=prepare)
    except BaseException:
        put_back(site, row)
        raise


def attach(site: Site, row: ContainerRow, streams: Streams) -> Outcome:
    """Connect to a running container's streams until it ends or the caller detaches."""
    if row.status == "paused":
        raise ConflictError(f"container {row.name}: is paused", hint=f"pe unpause {row.name}")
    connection = ask(site, row, {"op": "attach", "stdin": streams.stdin is not None})
    try:
        return Session(connection, streams, tty=row.spec.tty).run()
    finally:
        connection.close()


def ask(site: Site, row: ContainerRow, request: Mapping[str, Any]) -> socket.socket:
    """Return a connection to the monitor of a running container on which a request was sent.

    Raises:
        ConflictError: It does not run.
        StateError: Its monitor does not answer.
    """
    if row.status not in LIVE:
        raise ConflictError(f"container {row.name}: is not running", hint=f"pe start {row.name}")
    directory, name = os.path.split(site.locations.monitor_socket(row.id))
    try:
        connection = wire.connect(directory, name)
        try:
            connection.sendall(wire.pack_json(wire.REQUEST, request))
        except OSError:
            connection.close()
            raise
    except OSError as exc:
        now = container_rows.get(site.state, row.id)
        if now.status not in LIVE:
            raise ConflictError(f"container {row.name}: has just ended") from exc
        if container_rows.is_abandoned(now) or container_rows.is_being_recovered(now):
            raise ConflictError(f"container {row.name}: has ended with its monitor, which was killed") from exc
        raise StateError(
            f"container {row.name}: its monitor does not answer: {exc.strerror}", hint="pe system check --repair"
        ) from exc
    return connection


def send_signal(site: Site, row: ContainerRow, number: int) -> None:
    """Send a signal to the first process of a running container: its runtime does, and SIGKILL needs no runtime."""
    if row.status not in LIVE:
        raise ConflictError(f"container {row.name}: is not running")
    record = row.records.get("runtime")
    if number != signal.SIGKILL and record is not None:
        try:
            cast(RuntimeDriver, site.driver_of(row.choice, "runtime")).kill(runtime_request(site, row), record, number)
        except ConflictError:
            raise ConflictError(f"container {row.name}: has just ended") from None
        return
    first = ProcessId(row.state.pid, row.state.pid_start)
    if not first.pid or not process.send_signal(first, number):
        raise ConflictError(f"container {row.name}: has just ended")


def kill(site: Site, row: ContainerRow, number: int) -> None:
    """Send a signal; SIGKILL also ends a paused container."""
    send_signal(site, row, number)
    if number == signal.SIGKILL:
        _thaw_if_paused(site, row)


def stop(site: Site, row: ContainerRow, *, timeout_s: int | None = None, number: int | None = None) -> None:
    """End a container: its stop signal, then SIGKILL; returns when everything of it is undone.

    One that does not run is fine; one that is being started is waited for first. A runtime that cannot send the signal,
    as it is broken or was uninstalled, saves nobody: SIGKILL, which needs none, follows at once.

    Raises:
        StateError: It is still there after it was killed.
    """
    row = settled(site, row)
    if row.status not in LIVE:
        return
    if number is None:
        number = stop_signal(row)
    if timeout_s is None:
        timeout_s = DEFAULT_STOP_S if row.spec.stop_timeout_s is None else row.spec.stop_timeout_s
    monitor = _monitor_pidfd(row)
    Observers(site.observe, row.id)("stop", name=row.name, signal=str(number))
    try:
        send_signal(site, row, number)
    except ConflictError:
        pass
    except PlugengineError:
        timeout_s = 0
    _thaw_if_paused(site, row)
    ended = _process_ended(row, None if timeout_s < 0 else timeout_s) or _end_for_sure(site, row)
    if monitor is not None and not _wait_pidfd(monitor, _REMOVE_WAIT_S):
        ended = False
    if not ended:
        raise StateError(
            f"container {row.name}: still there {_REMOVE_WAIT_S:.0f} s after it was killed",
            hint="a process in a system call that does not end, or a driver that hangs; pe system check shows the rest",
        )


def _end_for_sure(site: Site, row: ContainerRow) -> bool:
    """Kill the first process; somebody may pause it meanwhile, and a frozen process of version 1 does not die."""
    for _attempt in range(int(_REMOVE_WAIT_S / _KILL_AGAIN_S)):
        try:
            send_signal(site, row, signal.SIGKILL)
        except ConflictError:
            return True
        _thaw_if_paused(site, row)
        if _process_ended(row, _KILL_AGAIN_S):
            return True
    return False


def settled(site: Site, row: ContainerRow) -> ContainerRow:
    """Return the row of a container once nobody is starting or recovering it any more.

    One whose owner is dead is recovered here and now: its caller is about to do something with it.

    Raises:
        ConflictError: That takes too long.
        NotFoundError: It was to be removed automatically, and has ended.
    """
    deadline = time.monotonic() + _START_WAIT_S
    while row.status == "starting" or container_rows.is_abandoned(row) or container_rows.is_being_recovered(row):
        if container_rows.is_abandoned(row) and container_rows.claim(site.state, row):
            from plugengine.operations.recovery import recover

            recover(site, row)
        elif time.monotonic() > deadline:
            doing = "starting" if row.status == "starting" else "being recovered"
            raise ConflictError(f"container {row.name}: is still {doing} after {_START_WAIT_S:.0f} s")
        else:
            time.sleep(_LOOK_AGAIN_S)
        row = container_rows.get(site.state, row.id)
    return row


def recover_in_background(site: Site, rows: Sequence[ContainerRow]) -> tuple[str, ...]:
    """Have containers without an owner recovered by other processes; wait a moment for them, and no longer.

    Returns:
        A sentence for each container that could not be recovered, or not yet.
    """
    from plugengine.operations import recovery_worker

    left = {row.id: row for row in rows}
    notices: list[str] = []
    try:
        with recovery_worker.start(site) as channel:
            for report in recovery_worker.reports(channel, timeout_s=_RECOVERY_WAIT_S):
                left.pop(report.container_id, None)
                finding = report.finding
                if finding is not None and (finding.culprit or not finding.repaired):
                    notices.append(finding.what)
    except OSError as exc:
        return (f"recovery of {len(left)} containers: {exc.strerror}",)
    notices += [
        f"container {row.name}: was {row.status} when its owner was killed; its recovery goes on in the background"
        for row in left.values()
    ]
    return tuple(notices)


def restart(site: Site, row: ContainerRow, *, timeout_s: int | None = None, number: int | None = None) -> None:
    """Stop and start; one to be removed at its end stays for this time."""
    row = settled(site, row)
    if row.spec.auto_remove and row.status in LIVE:
        try:
            with ask(site, row, {"op": "keep"}) as connection:
                attach_client.read_event(connection)
        except (ConflictError, StateError):
            pass  # it has just ended, and is gone
    stop(site, row, timeout_s=timeout_s, number=number)
    start(site, container_rows.get(site.state, row.id), streams=None)


def stop_signal(row: ContainerRow) -> int:
    """Return the number of the signal that asks a container to end."""
    from plugengine.runtime.signals import signal_number

    text = row.spec.stop_signal or str((row.records.get("config") or {}).get("stop_signal") or "SIGTERM")
    return signal_number(text)


def wait(site: Site, row: ContainerRow) -> int:
    """Return the exit code of a container, waiting for its end."""
    row = settled(site, row)
    if row.status in LIVE:
        try:
            with ask(site, row, {"op": "wait"}) as connection:
                return int(attach_client.read_event(connection)["code"])
        except (ConflictError, StateError):
            row = container_rows.get(site.state, row.id)  # it may have ended between our look and our question
            if row.status in LIVE:
                raise
    return row.state.exit_code or 0


def pause(site: Site, row: ContainerRow) -> None:
    """Freeze every process of a running container.

    The row says so first: whoever is killed in between leaves a container that can be unpaused.
    """
    if row.status != "running":
        raise ConflictError(f"container {row.name}: is {row.status}, not running")
    container_rows.update(site.state, row.id, status="paused", expect=("running",))
    try:
        _freeze(site, row, frozen=True)
    except BaseException as exc:
        _say_running(site, row)
        if isinstance(exc, PlugengineError) and _process_ended(row, 0):
            raise ConflictError(f"container {row.name}: has just ended") from exc
        raise
    if container_rows.get(site.state, row.id).status != "paused":
        _freeze(site, row, frozen=False)
        raise ConflictError(f"container {row.name}: somebody else let it go on, or ended it")


def unpause(site: Site, row: ContainerRow) -> None:
    """Let a paused container go on."""
    if row.status != "paused":
        raise ConflictError(f"container {row.name}: is {row.status}, not paused")
    _thaw(site, row)
    container_rows.update(site.state, row.id, status="running", expect=("paused",))
    _thaw(site, row)  # somebody who was still at pausing may have frozen it in between


def _say_running(site: Site, row: ContainerRow) -> None:
    try:
        container_rows.update(site.state, row.id, status="running", expect=("paused",))
    except (ConflictError, NotFoundError):
        pass  # it has ended


def _thaw_if_paused(site: Site, row: ContainerRow) -> None:
    """Let a container that is to end go on; one that is gone is fine."""
    try:
        if container_rows.get(site.state, row.id).status == "paused":
            _thaw(site, row)
    except NotFoundError:
        return


def _thaw(site: Site, row: ContainerRow) -> None:
    """Let a container go on; one that has ended meanwhile is fine."""
    try:
        _freeze(site, row, frozen=False)
    except PlugengineError:
        if not _process_ended(row, 0):
            raise


def _freeze(site: Site, row: ContainerRow, *, frozen: bool) -> None:
    record = row.records.get("cgroup")
    if record is None:
        raise PlugengineError(f"container {row.name}: has no control group to freeze")
    site.drivers(row.choice).cgroup.freeze(record, frozen=frozen)


def _pidfd(row: ContainerRow) -> int | None:
    if not row.state.pid:
        return None
    return open_pidfd(ProcessId(row.state.pid, row.state.pid_start))


def _monitor_pidfd(row: ContainerRow) -> int | None:
    if not row.state.monitor_pid:
        return None
    return open_pidfd(ProcessId(row.state.monitor_pid, row.state.monitor_start))


def _process_ended(row: ContainerRow, timeout_s: float | None) -> bool:
    pidfd = _pidfd(row)
    return pidfd is None or _wait_pidfd(pidfd, timeout_s)


def _wait_pidfd(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until a process has ended, then close the descriptor."""
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))
    finally:
        os.close(pidfd)
