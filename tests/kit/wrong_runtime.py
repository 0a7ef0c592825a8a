"""Runtime drivers that are wrong on purpose."""

from __future__ import annotations

import os
from typing import Any

import plugengine_runtime_native as native
from msgspec.structs import replace

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, RuntimeState, RuntimeStatus, Spawn
from plugengine.errors import DriverError, PlugengineError
from plugengine.model import DriverInfo, Record
from tests.kit.spoiling import Wrong


def does_not_hold(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    made = native.pe_runtime_create(request, bundle, spawn)
    native.pe_runtime_start(request)
    return made


def has_been_started(request: RuntimeRequest, record: Record) -> RuntimeProcess:
    return RuntimeProcess(pid=int(record["pid"]))


def returns_another_process(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    return replace(native.pe_runtime_create(request, bundle, spawn), pid=os.getppid())


def creates_with(**changes: Any) -> Any:
    """Change the bundle."""

    def pe_runtime_create(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
        return native.pe_runtime_create(request, replace(bundle, **changes), spawn)

    return pe_runtime_create


def creates_process_with(**changes: Any) -> Any:
    """Change the first process."""

    def pe_runtime_create(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
        changed = replace(bundle, process=replace(bundle.process, **changes))
        return native.pe_runtime_create(request, changed, spawn)

    return pe_runtime_create


def stays_in_the_callers_group(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    return native.pe_runtime_create(request, bundle, replace(spawn, cgroup=None))


def execs_with(**changes: Any) -> Any:
    """Change the process of exec."""

    def pe_runtime_exec(request: RuntimeRequest, record: Record, process: Process, spawn: Spawn) -> RuntimeProcess:
        return native.pe_runtime_exec(request, record, replace(process, **changes), spawn)

    return pe_runtime_exec


def says_only_that_it_failed(request: RuntimeRequest) -> RuntimeProcess:
    try:
        return native.pe_runtime_start(request)
    except PlugengineError as exc:
        raise DriverError(exc.message) from exc


def always_runs(request: RuntimeRequest, record: Record) -> RuntimeState:
    return RuntimeState(status=RuntimeStatus.RUNNING, pid=int(record["pid"]))


def kills_in_silence(request: RuntimeRequest, record: Record, signal: int) -> None:
    try:
        native.pe_runtime_kill(record, signal)
    except PlugengineError:
        pass


def sends_another_signal(request: RuntimeRequest, record: Record, signal: int) -> None:
    native.pe_runtime_kill(record, 10 if signal == 9 else 9)


def forgets_to_delete(request: RuntimeRequest) -> None:
    return


def deletes_once() -> Any:
    """Fail the second time."""
    seen: set[str] = set()

    def pe_runtime_delete(request: RuntimeRequest) -> None:
        if request.container_id in seen:
            raise DriverError("nothing of it is there")
        seen.add(request.container_id)
        native.pe_runtime_delete(request)

    return pe_runtime_delete


def claims_nothing() -> DriverInfo:
    return replace(native.pe_runtime_info(), capabilities=frozenset())


WRONG = [
    Wrong("does_not_hold", native, "runtime.create.held", "output of a container that is held",
          {"pe_runtime_create": does_not_hold, "pe_runtime_start": has_been_started}),
    Wrong("returns_another_process", native, "runtime.start.exit-code", "parent of the process",
          {"pe_runtime_create": returns_another_process}),
    Wrong("leaves_the_root_writable", native, "runtime.mounts.root", "writing to a read-only root",
          {"pe_runtime_create": creates_with(read_only=False)}),
    Wrong("masks_nothing", native, "runtime.mounts.masked", "bytes of /proc/kcore",
          {"pe_runtime_create": creates_with(masked_paths=(), read_only_paths=())}),
    Wrong("forgets_the_parameters", native, "runtime.names.set", "names and parameter",
          {"pe_runtime_create": creates_with(sysctls=())}),
    Wrong("forgets_the_filter", native, "runtime.process.seccomp", "mode of seccomp",
          {"pe_runtime_create": creates_process_with(seccomp="unconfined")}),
    Wrong("keeps_every_capability", native, "runtime.process.capabilities", "capabilities of user 0",
          {"pe_runtime_create": creates_process_with(capabilities=("CAP_CHOWN", "CAP_SYS_ADMIN"))}),
    Wrong("forgets_the_limits", native, "runtime.process.limits", "limits, umask and score",
          {"pe_runtime_create": creates_process_with(rlimits=())}),
    Wrong("forgets_the_directory", native, "runtime.process.words", "variable and directory",
          {"pe_runtime_create": creates_process_with(cwd="/")}),
    Wrong("stays_in_the_callers_group", native, "runtime.cgroup.entered", "is not in its group",
          {"pe_runtime_create": stays_in_the_callers_group}),
    Wrong("execs_without_a_filter", native, "runtime.process.seccomp", "mode of seccomp",
          {"pe_runtime_exec": execs_with(seccomp="unconfined")}),
    Wrong("execs_as_root", native, "runtime.exec.process", "what exec has",
          {"pe_runtime_exec": execs_with(env=())}),
    Wrong("says_only_that_it_failed", native, "runtime.start.missing-command", "raised DriverError",
          {"pe_runtime_start": says_only_that_it_failed}),
    Wrong("always_runs", native, "runtime.state.follows", "state while it is held", {"pe_runtime_state": always_runs}),
    Wrong("kills_in_silence", native, "runtime.kill.ended", "has ended", {"pe_runtime_kill": kills_in_silence}),
    Wrong("sends_another_signal", native, "runtime.kill.signal", "exit code and output",
          {"pe_runtime_kill": sends_another_signal}),
    Wrong("forgets_to_delete", native, "runtime.delete.held", "is left after delete",
          {"pe_runtime_delete": forgets_to_delete}),
    Wrong("deletes_once", native, "runtime.delete.twice", "nothing of it is there",
          {"pe_runtime_delete": deletes_once()}),
]  # fmt: skip
