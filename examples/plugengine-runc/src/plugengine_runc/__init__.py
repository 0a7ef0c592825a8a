"""Runtime driver `runc`: an OCI runtime program makes the processes; see its runtime.md and config.md."""

from __future__ import annotations

import json
import os
import shutil
from typing import Final

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, RuntimeState, RuntimeStatus, Spawn
from plugengine.errors import ConflictError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import DriverInfo, Host, Option, Record

PROGRAM: Final = "program"
_STATUS: Final = {
    "creating": RuntimeStatus.CREATED,
    "created": RuntimeStatus.CREATED,
    "running": RuntimeStatus.RUNNING,
    "paused": RuntimeStatus.RUNNING,
    "stopped": RuntimeStatus.STOPPED,
}
_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="an OCI runtime program",
    options=(Option(name=PROGRAM, default="runc", help="the program, in PATH or absolute"),),
)


@hookimpl
def pe_runtime_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_runtime_probe(host: Host) -> list[str]:
    """Return what is missing; another program may be named by the option, so this one is no more than usual."""
    return [] if shutil.which("runc") else ["program runc: not in PATH (Debian: apt install runc)"]


@hookimpl
def pe_runtime_create(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    """Write the bundle and have the program make the container."""
    from plugengine_runc import config
    from plugengine_runc.program import Program

    os.makedirs(request.directory, 0o700, exist_ok=True)
    try:
        with open(f"{request.directory}/config.json", "w", encoding="utf-8") as stream:
            json.dump(config.of_bundle(bundle, spawn.cgroup), stream)
        made = Program(request).spawn(
            "create", "--bundle", request.directory, then=[request.container_id], stdio=spawn.stdio
        )
    except BaseException:
        pe_runtime_delete(request, None)
        raise
    return RuntimeProcess(pid=made.pid, terminal=made.terminal, record={"pid": made.pid})


@hookimpl
def pe_runtime_start(request: RuntimeRequest, record: Record) -> RuntimeProcess:
    """Let the first process go."""
    from plugengine_runc.program import Program

    Program(request)("start", request.container_id)
    return RuntimeProcess(pid=int(record["pid"]))


@hookimpl
def pe_runtime_exec(request: RuntimeRequest, process: Process, spawn: Spawn) -> RuntimeProcess:
    """Run one more process."""
    from plugengine_runc import config
    from plugengine_runc.program import Program

    path = f"{request.directory}/exec-{os.urandom(8).hex()}.json"
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(config.of_process(process), stream)
    try:
        made = Program(request).spawn(
            "exec", "--detach", "--process", path, then=[request.container_id], stdio=spawn.stdio
        )
    finally:
        os.unlink(path)
    return RuntimeProcess(pid=made.pid, terminal=made.terminal)


@hookimpl
def pe_runtime_state(request: RuntimeRequest) -> RuntimeState:
    """Return what the program says of the container."""
    from plugengine_runc.program import NoContainerError, Program

    if not os.path.isdir(request.directory):
        return RuntimeState(status=RuntimeStatus.STOPPED)
    try:
        found = json.loads(Program(request)("state", request.container_id))
    except NoContainerError:
        return RuntimeState(status=RuntimeStatus.STOPPED)
    status = _STATUS.get(found["status"], RuntimeStatus.STOPPED)
    return RuntimeState(status=status, pid=0 if status is RuntimeStatus.STOPPED else int(found["pid"]))


@hookimpl
def pe_runtime_kill(request: RuntimeRequest, signal: int) -> None:
    """Send a signal to the first process."""
    from plugengine_runc.program import NoContainerError, NotRunningError, Program

    try:
        Program(request)("kill", request.container_id, str(signal))
    except (NoContainerError, NotRunningError) as exc:
        raise ConflictError(f"container {request.container_id}: has just ended") from exc


@hookimpl
def pe_runtime_delete(request: RuntimeRequest, record: Record | None) -> None:
    """Kill what is left of the container, and remove what the program keeps of it."""
    from plugengine_runc.program import NoContainerError, Program

    if os.path.isdir(request.directory):
        try:
            Program(request)("delete", "--force", request.container_id)
        except NoContainerError:
            pass
        shutil.rmtree(request.directory)
