"""What happens to a container after it was made: start, stop, kill, pause, wait, remove."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from plugengine import container_rows, session, wire
from plugengine.container_rows import ContainerRow
from plugengine.errors import ConflictError, DriverLoadError, NotFoundError, PlugengineError, StateError
from plugengine.kernel.process import ProcessId, boot_id, open_pidfd
from plugengine.removal import remove_container
from plugengine.session import Outcome, Session, Streams
from plugengine.site import Site

if TYPE_CHECKING:
    from plugengine.drivers import DriverSet

DEFAULT_STOP_S: Final = 10
LIVE: Final = ("running", "paused", "stopping")
STARTABLE: Final = ("created", "exited")
_REMOVE_WAIT_S: Final = 15.0

Log = Callable[[str], None]


def start(
    site: Site,
    row: ContainerRow,
    *,
    streams: Streams | None,
    debug: bool = False,
    log: Log | None = None,
    warn: Log | None = None,
) -> Outcome | None:
    """Start a container; with streams, stay connected until it ends.

    Returns:
        How it ended, or None when not connected.

    Raises:
        ConflictError: It runs already, or somebody else works on it.
        CommandNotFoundError, NotExecutableError: Its command.
        PlugengineError: Something else; the container is as it was before.
    """
    if row.status in LIVE:
        raise ConflictError(f"container {row.name}: is {row.status} already")
    container_rows.update(
        site.state, row.id, status="starting", expect=STARTABLE, owner=ProcessId.of(os.getpid()), boot_id=boot_id()
    )
    row = msgspec.structs.replace(row, status="starting")
    connection = _spawn(site, row, attach=streams is not None, debug=debug)
    try:
        if streams is None:
            event = session.read_event(connection, log=log)
            if event.get("event") == "error":
                session.raise_error(event)
            if warn is not None:
                for warning in event.get("warnings", ()):
                    warn(str(warning))
            return None
        return Session(connection, streams, tty=row.spec.tty, log=log, warn=warn).run()
    finally:
        connection.close()


def _spawn(site: Site, row: ContainerRow, *, attach: bool, debug: bool) -> socket.socket:
    from plugengine.monitor.main import spawn

    def prepare() -> None:
        import plugengine.monitor.supervisor  # noqa: F401 - the monitor's pages, shared

    try:
        return spawn(site, row, attach=attach, debug=debug, prepare=prepare)
    except BaseException:
        container_rows.update(site.state, row.id, status="created", expect=("starting",), owner=None)
        raise


def attach(site: Site, row: ContainerRow, streams: Streams) -> Outcome:
    """Connect to a running container's streams until it ends or the caller detaches."""
    if row.status == "paused":
        raise ConflictError(f"container {row.name}: is paused", hint=f"pe unpause {row.name}")
    connection = connect(site, row)
    connection.sendall(wire.pack_json(wire.REQUEST, {"op": "attach", "stdin": streams.stdin is not None}))
    try:
        return Session(connection, streams, tty=row.spec.tty).run()
    finally:
        connection.close()


def connect(site: Site, row: ContainerRow) -> socket.socket:
    """Return a connection to the monitor of a running container.

    Raises:
        ConflictError: It does not run.
        StateError: Its monitor does not answer.
    """
    if row.status not in LIVE:
        raise ConflictError(f"container {row.name}: is not running", hint=f"pe start {row.name}")
    directory, name = os.path.split(site.locations.monitor_socket(row.id))
    try:
        return wire.connect(directory, name)
    except OSError as exc:
        raise StateError(
            f"container {row.name}: its monitor does not answer: {exc.strerror}", hint="pe system check --repair"
        ) from exc


def send_signal(site: Site, row: ContainerRow, number: int) -> None:  # noqa: ARG001
    """Send a signal to the first process of a running container."""
    if row.status not in LIVE:
        raise ConflictError(f"container {row.name}: is not running")
    pidfd = _pidfd(row)
    if pidfd is None:
        raise ConflictError(f"container {row.name}: has just ended")
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise ConflictError(f"container {row.name}: has just ended") from None
    finally:
        os.close(pidfd)


def kill(site: Site, row: ContainerRow, number: int) -> None:
    """Send a signal; SIGKILL also ends a paused container."""
    send_signal(site, row, number)
    if number == signal.SIGKILL and row.status == "paused":
        _freeze(site, row, frozen=False)


def stop(site: Site, row: ContainerRow, *, timeout_s: int | None = None, number: int | None = None) -> None:
    """End a container: its stop signal, then SIGKILL; returns when everything of it is taken back.

    One that does not run is fine.
    """
    if row.status not in LIVE:
        return
    if number is None:
        number = stop_signal(row)
    if timeout_s is None:
        timeout_s = DEFAULT_STOP_S if row.spec.stop_timeout_s is None else row.spec.stop_timeout_s
    monitor = _monitor_pidfd(row)
    try:
        send_signal(site, row, number)
        if row.status == "paused":
            _freeze(site, row, frozen=False)
    except ConflictError:
        pass
    if not _process_ended(row, None if timeout_s < 0 else timeout_s):
        try:
            send_signal(site, row, signal.SIGKILL)
        except ConflictError:
            pass
    if monitor is not None:
        _wait_pidfd(monitor, _REMOVE_WAIT_S)


def stop_signal(row: ContainerRow) -> int:
    """Return the number of the signal that asks a container to end."""
    from plugengine.guest import signal_number

    text = row.spec.stop_signal or str((row.records.get("config") or {}).get("stop_signal") or "SIGTERM")
    return signal_number(text)


def wait(site: Site, row: ContainerRow) -> int:
    """Return the exit code of a container, waiting for its end."""
    if row.status in LIVE or row.status == "starting":
        try:
            connection = connect(site, msgspec.structs.replace(row, status="running"))
        except StateError:
            connection = None
        if connection is not None:
            with connection:
                connection.sendall(wire.pack_json(wire.REQUEST, {"op": "wait"}))
                return int(session.read_event(connection)["code"])
        row = container_rows.get(site.state, row.id)
    return row.state.exit_code or 0


def pause(site: Site, row: ContainerRow) -> None:
    """Freeze every process of a running container."""
    if row.status != "running":
        raise ConflictError(f"container {row.name}: is {row.status}, not running")
    _freeze(site, row, frozen=True)
    container_rows.update(site.state, row.id, status="paused", expect=("running",))


def unpause(site: Site, row: ContainerRow) -> None:
    """Let a paused container go on."""
    if row.status != "paused":
        raise ConflictError(f"container {row.name}: is {row.status}, not paused")
    _freeze(site, row, frozen=False)
    container_rows.update(site.state, row.id, status="running", expect=("paused",))


def remove(site: Site, row: ContainerRow, *, force: bool, with_volumes: bool) -> None:
    """Remove a container; one that runs only with force.

    Raises:
        ConflictError: It runs.
    """
    if row.status in (*LIVE, "starting"):
        if not force:
            raise ConflictError(
                f"container {row.name}: is {row.status}", hint=f"stop it first: pe stop {row.name}; or pe rm --force"
            )
        stop(site, row, timeout_s=0, number=signal.SIGKILL)
        try:
            row = container_rows.get(site.state, row.id)
        except NotFoundError:
            return  # it was to be removed automatically
    container_rows.update(
        site.state,
        row.id,
        status="removing",
        expect=("created", "exited", "dead", "removing"),
        owner=ProcessId.of(os.getpid()),
        boot_id=boot_id(),
    )
    remove_container(site, row, usable_drivers(site, row), with_volumes=with_volumes)


def usable_drivers(site: Site, row: ContainerRow) -> DriverSet | None:
    """Return a container's drivers, or None when one of them was uninstalled or is broken."""
    try:
        return site.drivers(row.choice)
    except (NotFoundError, ConflictError, DriverLoadError):
        return None


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
