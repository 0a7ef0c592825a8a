"""Cgroup driver `v1`: one hierarchy for each controller, also on hybrid hosts; see cgroups(7)."""

from __future__ import annotations

from plugengine.errors import NotSupportedError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import (
    Capability,
    CgroupEntry,
    CgroupRequest,
    CgroupStats,
    DriverInfo,
    Host,
    HostPath,
    Limits,
    Mount,
    Record,
    Settings,
)

from plugengine_cgroup_v1 import accounting, groups, mounting, states
from plugengine_cgroup_v1.host import ControllerSet
from plugengine_cgroup_v1.limits import limits_to_settings

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="control groups of version 1, and hybrid hosts",
    capabilities=frozenset({Capability.FREEZE, Capability.DEVICES}),
    rank=90,
)


@hookimpl
def pe_cgroup_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_cgroup_probe(host: Host) -> list[str]:
    """Return which hierarchies are missing or can't be written."""
    return ControllerSet.of_this_host().reasons()


@hookimpl
def pe_cgroup_settings(limits: Limits, request: CgroupRequest) -> Settings:
    """Return the limits as writes."""
    return limits_to_settings(limits, ControllerSet.of_this_host())


@hookimpl
def pe_cgroup_create(request: CgroupRequest) -> Record:
    """Make the group in every hierarchy."""
    controllers = ControllerSet.of_this_host()
    if reasons := controllers.reasons():
        raise NotSupportedError(f"cgroup driver v1: {'; '.join(reasons)}")
    return groups.create(request, controllers)


@hookimpl
def pe_cgroup_apply(record: Record, settings: Settings, limits: Limits) -> None:
    """Write the settings."""
    groups.apply(record, settings)


@hookimpl
def pe_cgroup_entry(record: Record) -> CgroupEntry:
    """Return how a new process enters by itself."""
    return groups.entry(record)


@hookimpl
def pe_cgroup_pids(record: Record) -> tuple[int, ...]:
    """Return the processes of the group and its descendants."""
    return states.pids(record)


@hookimpl
def pe_cgroup_stats(record: Record) -> CgroupStats:
    """Return the accounting now."""
    return accounting.stats(record)


@hookimpl
def pe_cgroup_freeze(record: Record, frozen: bool) -> None:  # noqa: FBT001 - as the hook
    """Freeze or thaw."""
    states.freeze(record, frozen=frozen)


@hookimpl
def pe_cgroup_kill(request: CgroupRequest, record: Record | None) -> None:
    """Kill every process of the group."""
    states.kill(record or groups.expected(request, ControllerSet.of_this_host()))


@hookimpl
def pe_cgroup_mounts(request: CgroupRequest, target: HostPath) -> tuple[Mount, ...]:
    """Return the mounts for the guest's /sys/fs/cgroup."""
    return mounting.mounts(ControllerSet.of_this_host(), target)


@hookimpl
def pe_cgroup_remove(request: CgroupRequest, record: Record | None) -> None:
    """Remove the group everywhere."""
    groups.remove(record or groups.expected(request, ControllerSet.of_this_host()))


@hookimpl
def pe_cgroup_gc(host: Host, parent: str, valid_ids: frozenset[str]) -> list[str]:
    """Kill and remove this engine's groups of no container."""
    return groups.collect(ControllerSet.of_this_host(), host.root, parent, valid_ids)
