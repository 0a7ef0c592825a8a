"""Run a container's steps, serve its clients, and take everything back when it has ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import msgspec

from plugengine.containers import cgroup_parents
from plugengine.containers.exec import run_exec
from plugengine.containers.failed_start import not_started
from plugengine.containers.plan import StartPlan
from plugengine.containers.remove import mark_dead, remove_container
from plugengine.containers.requests import cgroup_request
from plugengine.containers.steps import Live, Runner
from plugengine.errors import ConflictError, PlugengineError, UsageError
from plugengine.kernel.process import ProcessId
from plugengine.model import encode
from plugengine.monitor.guest_process import Client, GuestProcess
from plugengine.monitor.loop import READ, Loop
from plugengine.monitor.task import Task
from plugengine.objects import ContainerState
from plugengine.plugins.observers import Observers
from plugengine.runtime.handle import Handle
from plugengine.site import Site
from plugengine.spec import ExecSpec, ImageConfig
from plugengine.state import container_rows
from plugengine.streams import wire
from plugengine.streams.logs import LogWriter

_LAST_OUTPUT_S: Final = 5.0  # how long clients get to take the last output


class Supervisor:
    """Owns one run of one container, from the first step to the last undo."""

    def __init__(self, site: Site, task: Task, connection: socket.socket) -> None:
        row = task.row
        self._site = site
        self._row = row
        self._plan = task.plan
        self._connection = connection
        self._attach = task.attach
        self._debug = task.debug
        self._loop = Loop()
        self._drivers = site.drivers(row.choice)
        self._tell = Observers(self._drivers.observe, row.id, complain=sys.stderr.write)
        self._live = Live(site, self._drivers, log=self._log, tell=self._tell)
        self._runner = Runner(self._live)
        self._main: GuestProcess | None = None
        self._first: Client | None = None
        self._execs: dict[str, GuestProcess] = {}
        self._clients: list[Client] = []
        self._waiters: list[Client] = []
        self._server: socket.socket | None = None
        self._error = ""
        self._not_removed = ""  # why, if it was to be removed
        self._keep = False
        self._started_ns = 0

    def run(self) -> int:
        """Start the container and serve it; return the process's exit code.

        Raises:
            PlugengineError: It could not be started; everything is undone and the row says why.
        """
        try:
            self._start()
        except Exception as exc:
            error = self._as_ours(exc, doing="start")
            self._failed(error)
            raise error from exc
        self._tell("start")
        self._serve()
        self._loop.run()
        return 0

    def _as_ours(self, exc: Exception, *, doing: str) -> PlugengineError:
        """Return an error a caller can be told; an unexpected one leaves its traceback in the monitor's log."""
        if isinstance(exc, PlugengineError):
            return exc
        traceback.print_exception(exc)
        if isinstance(exc, OSError):
            return PlugengineError(f"{doing} container {self._row.name}: {exc}")
        from plugengine.plugins.culprit import culprit

        whose = culprit(exc) or "plugengine"
        return PlugengineError(
            f"{doing} container {self._row.name}: {type(exc).__name__}: {exc}",
            hint=f"a bug of {whose}; {self._site.locations.monitor_log(self._row.id)} shows where",
        )

    def finish(self) -> None:
        """Do what nobody need wait for; called last, also after a failed start."""
        for action in self._live.afterwards:
            try:
                action()
            except (PlugengineError, OSError) as exc:
                sys.stderr.write(f"{exc}\n")

    # --- start ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        os.makedirs(self._site.locations.run(self._row.id), 0o700, exist_ok=True)
        cgroup_parents.remember(self._site, self._row.spec.cgroup_parent)
        self._server = wire.bind(*os.path.split(self._site.locations.monitor_socket(self._row.id)))
        self._runner.run(self._plan.steps())
        self._started_ns = time.time_ns()
        try:
            self._record_running(self._plan)
        except BaseException:
            self._runner.unwind()
            raise

    def _record_running(self, plan: StartPlan) -> None:
        child, server = self._live.first, self._live.server
        found = ProcessId.of(child.pid)
        of_server = ProcessId.of(server.pid) if server else None
        me = ProcessId.of(os.getpid())
        state = ContainerState(
            pid=child.pid,
            pid_start=found.start_time if found else 0,
            monitor_pid=me.pid if me else 0,
            monitor_start=me.start_time if me else 0,
            server_pid=of_server.pid if of_server else 0,
            server_start=of_server.start_time if of_server else 0,
            started_ns=self._started_ns,
            restart_count=self._row.state.restart_count,
            warnings=(*plan.warnings, *child.warnings),
        )
        records = dict(self._row.records)
        records["cgroup"] = dict(self._live.cgroup) if self._live.cgroup is not None else None
        records["runtime"] = dict(child.record)
        records["network"] = {
            "request": encode(self._live.connection) if self._live.connection else None,
            "attachment": encode(self._live.attachment) if self._live.attachment else None,
        }
        self._row = msgspec.structs.replace(self._row, state=state, records=records, status="running")
        container_rows.update(
            self._site.state,
            self._row.id,
            status="running",
            expect=("starting",),
            container_state=state,
            records=records,
        )

    def _failed(self, error: PlugengineError) -> None:
        """Say in the row why it did not start; one to be removed automatically is removed."""
        if self._server is not None:
            self._server.close()
        not_started(self._site, self._row, self._drivers.storage, error)

    # --- serve ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        assert self._server is not None  # noqa: S101
        log = LogWriter(self._site.locations.log(self._row.id))
        self._main = self._adopt(self._live.first, log=log, ended=self._main_ended)
        self._first = self._add_client(self._connection)
        if self._attach:
            self._main.attach(self._first, owns_stdin=True)
        self._first.send(wire.pack_json(wire.EVENT, {"event": "started", "warnings": list(self._row.state.warnings)}))
        if not self._attach:
            self._first.finish()
        self._loop.watch(self._server.fileno(), READ, self._accept)
        if self._live.server is not None:
            self._loop.watch(self._live.server.pidfd, READ, self._server_ended)

    def _adopt(self, child: Handle, *, log: LogWriter | None, ended: Callable[[GuestProcess], None]) -> GuestProcess:
        stdio = child.take_stdio()
        return GuestProcess(
            self._loop,
            pid=child.pid,
            pidfd=child.take_pidfd(),
            stdin=stdio.stdin,
            outputs=stdio.outputs,
            tty=stdio.tty,
            log=log,
            ended=ended,
        )

    def _add_client(self, connection: socket.socket) -> Client:
        client = Client(self._loop, connection, self._request)
        self._clients.append(client)
        return client

    def _accept(self, _events: int) -> None:
        assert self._server is not None  # noqa: S101 - watched only then
        try:
            connection, _address = self._server.accept()
        except OSError:
            return
        self._clients = [client for client in self._clients if not client.closed]
        if wire.peer_is_owner(connection):
            self._add_client(connection)
        else:
            connection.close()

    def _request(self, client: Client, payload: bytes) -> None:
        request = wire.unpack_json(payload)
        operations: dict[str, Callable[[Client, dict[str, Any]], None]] = {
            "attach": self._op_attach,
            "exec": self._op_exec,
            "keep": self._op_keep,
            "resize": self._op_resize,
            "signal": self._op_signal,
            "wait": self._op_wait,
        }
        try:
            operations.get(str(request.get("op")), self._op_unknown)(client, request)
        except Exception as exc:  # noqa: BLE001 - what one client asks for must not end the container
            error = self._as_ours(exc, doing=str(request.get("op")))
            client.send(wire.pack_error(wire.REPLY, error))

    def _op_attach(self, client: Client, request: dict[str, Any]) -> None:
        assert self._main is not None  # noqa: S101 - served only then
        self._main.attach(client, owns_stdin=False)
        client.send(wire.pack_json(wire.REPLY, {"event": "attached", "stdin": bool(request.get("stdin"))}))

    def _op_resize(self, client: Client, request: dict[str, Any]) -> None:
        target = client.target or self._main
        if target is not None:
            target.resize(int(request["rows"]), int(request["columns"]))

    def _op_signal(self, client: Client, request: dict[str, Any]) -> None:
        number = int(request["signal"])
        if client.target is not None and client.target is not self._main:
            client.target.signal(number)
            return
        try:
            self._drivers.runtime.kill(self._plan.create.request, self._live.first.record, number)
        except ConflictError:
            pass  # it has ended

    def _op_wait(self, client: Client, _request: dict[str, Any]) -> None:
        self._waiters.append(client)

    def _op_unknown(self, _client: Client, request: dict[str, Any]) -> None:
        raise UsageError(f"monitor of container {self._row.name}: unknown operation {request.get('op')}")

    def _op_keep(self, client: Client, _request: dict[str, Any]) -> None:
        """Leave the container there when it ends, to be started again."""
        self._keep = True
        client.send(wire.pack_json(wire.REPLY, {"event": "kept"}))

    def _op_exec(self, client: Client, request: dict[str, Any]) -> None:
        spec = msgspec.convert(request["spec"], ExecSpec)
        name = container_rows.get(self._site.state, self._row.id).name  # it may have another one by now
        self._row = msgspec.structs.replace(self._row, name=name)
        config = msgspec.convert(self._row.records.get("config") or {}, ImageConfig)
        child = run_exec(self._live, self._plan, self._row.spec, config, spec)
        process = self._adopt(child, log=None, ended=self._exec_ended)
        process.exec_id = os.urandom(32).hex()
        self._execs[process.exec_id] = process
        client.send(wire.pack_json(wire.REPLY, {"event": "started", "exec_id": process.exec_id, "pid": process.pid}))
        if not spec.detach:
            process.attach(client, owns_stdin=True)

    # --- ends ----------------------------------------------------------------------------------------------

    def _exec_ended(self, process: GuestProcess) -> None:
        process.drain()
        self._execs.pop(process.exec_id or "", None)
        for client in list(process.clients):
            client.target = None
            client.send(wire.pack_json(wire.EVENT, {"event": "exit", "code": process.exit_code}))
            client.finish()

    def _server_ended(self, _events: int) -> None:
        """End the container at once: nothing it does can work without its root filesystem."""
        server = self._live.server
        if server is None or self._main is None:
            return
        self._loop.forget(server.pidfd)
        self._error = f"storage server {server.reap()}"
        self._tell("server-died")
        self._main.signal(signal.SIGKILL)
        if self._live.cgroup is not None:
            self._drivers.cgroup.kill(cgroup_request(self._site, self._row), self._live.cgroup)

    def _main_ended(self, process: GuestProcess) -> None:
        self._kill_rest()
        process.drain()
        for each in list(self._execs.values()):
            each.signal(signal.SIGKILL)
        oom = self._oom_kills() > 0
        if oom:
            self._tell("oom")
        self._tell("die", exit_code=str(process.exit_code))
        if self._live.server is not None:
            self._loop.forget(self._live.server.pidfd)
        problems = self._runner.unwind()
        for problem in problems:
            sys.stderr.write(f"{problem}\n")
        self._record_end(process, oom=oom)
        self._tell_clients(process, oom=oom)

    def _kill_rest(self) -> None:
        """End what outlives the first process: all of it where the pid namespace is not the container's own."""
        if self._live.cgroup is None:
            return
        try:
            self._drivers.cgroup.kill(cgroup_request(self._site, self._row), self._live.cgroup)
        except PlugengineError as exc:
            sys.stderr.write(f"kill what is left: {exc}\n")

    def _oom_kills(self) -> int:
        if self._live.cgroup is None:
            return 0
        try:
            return self._drivers.cgroup.stats(self._live.cgroup).oom_kills
        except PlugengineError:
            return 0

    def _record_end(self, process: GuestProcess, *, oom: bool) -> None:
        state = msgspec.structs.replace(
            self._row.state,
            pid=0,
            pid_start=0,
            monitor_pid=0,
            monitor_start=0,
            server_pid=0,
            server_start=0,
            exit_code=process.exit_code,
            oom_killed=oom,
            error=self._error,
            finished_ns=time.time_ns(),
        )
        records = container_rows.lasting_records(self._row)
        row = msgspec.structs.replace(self._row, state=state, records=records)
        if self._row.spec.auto_remove and not self._keep:
            try:
                remove_container(
                    self._site, row, self._drivers.storage, with_volumes=True, observe=self._drivers.observe
                )
            except PlugengineError as exc:
                sys.stderr.write(f"remove: {exc}\n")
                mark_dead(self._site, row, exc.message)
                self._not_removed = exc.message
            return
        container_rows.update(
            self._site.state, row.id, status="exited", container_state=row.state, records=row.records, owner=None
        )

    def _tell_clients(self, process: GuestProcess, *, oom: bool) -> None:
        if self._server is not None:
            self._loop.forget(self._server.fileno())
            self._server.close()
            try:
                os.unlink(self._site.locations.monitor_socket(self._row.id))
            except FileNotFoundError:
                pass
        event = {
            "event": "exit",
            "code": process.exit_code,
            "oom_killed": oom,
            "error": self._error,
            "not_removed": self._not_removed,
        }
        for client in [*process.clients, *self._waiters]:
            client.target = None
            client.send(wire.pack_json(wire.EVENT, event))
        for client in self._clients:
            client.finish()
        self._stop_when_heard(time.monotonic() + _LAST_OUTPUT_S)

    def _stop_when_heard(self, deadline: float) -> None:
        if all(client.closed for client in self._clients) or time.monotonic() > deadline:
            self._loop.stop()
        else:
            self._loop.later(0.005, lambda: self._stop_when_heard(deadline))

    # --- words ---------------------------------------------------------------------------------------------

    def _log(self, text: str) -> None:
        if not self._debug:
            return
        sys.stderr.write(f"{text}\n")
        if self._first is not None:
            self._first.send(wire.pack_json(wire.EVENT, {"event": "log", "text": text}))
        else:
            self._connection.sendall(wire.pack_json(wire.EVENT, {"event": "log", "text": text}))
