"""Runtime driver `native`: clone3(2), a gate, and a child that becomes the command with system calls only.

What calls the kernel is imported when a container is started, as every `pe` loads this module.
"""

from __future__ import annotations

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, RuntimeState, Spawn
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel.libc import MACHINE
from plugengine.model import Capability, DriverInfo, Host, Record

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="clones and confines processes by itself, without another program",
    capabilities=frozenset(
        {Capability.USER_NAMESPACE, Capability.TIME_NAMESPACE, Capability.INIT, Capability.ID_MAPPED_MOUNTS}
    ),
    rank=100,
)
_MACHINES = ("x86_64", "aarch64")  # those with a table of system calls, and an init
_KERNEL = (5, 12)  # mount_setattr(2); clone3(2), openat2(2) and close_range(2) are older


@hookimpl
def pe_runtime_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_runtime_probe(host: Host) -> list[str]:
    """Return what this host lacks."""
    reasons: list[str] = []
    if host.kernel < _KERNEL:
        reasons.append(f"Linux {host.kernel[0]}.{host.kernel[1]}: older than {_KERNEL[0]}.{_KERNEL[1]}")
    if MACHINE not in _MACHINES:
        reasons.append(f"machine {MACHINE}: not one of {', '.join(_MACHINES)}")
    return reasons


@hookimpl
def pe_runtime_create(request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
    """Clone the first process and hold it at its gate."""
    from plugengine_runtime_native import launch

    return launch.create(request, bundle, spawn)


@hookimpl
def pe_runtime_start(request: RuntimeRequest) -> RuntimeProcess:
    """Open the gate."""
    from plugengine_runtime_native import launch

    return launch.start(request.container_id)


@hookimpl
def pe_runtime_exec(request: RuntimeRequest, record: Record, process: Process, spawn: Spawn) -> RuntimeProcess:
    """Run one more process."""
    from plugengine_runtime_native import launch

    return launch.run(request, record, process, spawn)


@hookimpl
def pe_runtime_state(request: RuntimeRequest, record: Record) -> RuntimeState:
    """Return where the first process is."""
    from plugengine_runtime_native import launch

    return launch.state(request.container_id, record)


@hookimpl
def pe_runtime_kill(record: Record, signal: int) -> None:
    """Send a signal to the first process."""
    from plugengine_runtime_native import launch

    launch.kill(record, signal)


@hookimpl
def pe_runtime_delete(request: RuntimeRequest) -> None:
    """End what still waits at its gate; a process that runs is its parent's to end and reap."""
    from plugengine_runtime_native import launch

    launch.delete(request.container_id)
