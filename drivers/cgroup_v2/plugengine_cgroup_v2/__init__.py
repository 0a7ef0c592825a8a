"""Cgroup driver `v2`: the unified hierarchy; see Documentation/admin-guide/cgroup-v2.rst."""

from __future__ import annotations

from plugengine.errors import NotSupportedError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
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

from plugengine_cgroup_v2 import accounting, groups, states
from plugengine_cgroup_v2.host import reasons_of_this_host, unified
from plugengine_cgroup_v2.limits import limits_to_settings

_INFO = DriverInfo(
    api_version=API_VERSION,
    summary="the unified hierarchy of control groups, version 2",
    capabilities=frozenset({Capability.FREEZE, Capability.DEVICES}),
    rank=100,
)


@hookimpl
def pe_cgroup_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_cgroup_probe(host: Host) -> list[str]:
    """Return what the unified hierarchy lacks."""
    return reasons_of_this_host()


@hookimpl
def pe_cgroup_settings(limits: Limits, request: CgroupRequest) -> Settings:
    """Return the limits as writes."""
    return limits_to_settings(limits, unified())


@hookimpl
def pe_cgroup_create(request: CgroupRequest) -> Record:
    """Make the group and hand the controllers down to it."""
    if reasons := reasons_of_this_host():
        raise NotSupportedError(f"cgroup driver v2: {'; '.join(reasons)}")
    return groups.create(request, unified())


@hookimpl
def pe_cgroup_apply(record: Record, settings: Settings, limits: Limits) -> None:
    """Write the settings and load the device program."""
    groups.apply(record, settings, limits)


@hookimpl
def pe_cgroup_entry(record: Record) -> CgroupEntry:
    """Return the directory to be born into."""
    return CgroupEntry(clone_into=HostPath(record["group"]))


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
    states.kill(record or groups.expected(request, unified()))


@hookimpl
def pe_cgroup_mounts(request: CgroupRequest, target: HostPath) -> tuple[Mount, ...]:
    """Return the mount for the guest's /sys/fs/cgroup; its root is the container's own group."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    return (Mount(fstype="cgroup2", source="cgroup", target=target, flags=flags),)


@hookimpl
def pe_cgroup_remove(request: CgroupRequest, record: Record | None) -> None:
    """Remove the group."""
    groups.remove(record or groups.expected(request, unified()))


@hookimpl
def pe_cgroup_gc(host: Host, parent: str, valid_ids: frozenset[str]) -> list[str]:
    """Kill and remove this engine's groups of no container."""
    return groups.collect(unified(), host.root, parent, valid_ids)
