"""Cgroup drivers that are wrong on purpose."""

from __future__ import annotations

import os
import signal
from typing import Any

import plugengine_cgroup_v1 as v1
from msgspec.structs import replace

from plugengine.kernel.mount import MS_RDONLY
from plugengine.model import (
    CgroupEntry,
    CgroupRequest,
    CgroupStats,
    Host,
    HostPath,
    Limits,
    Mount,
    Record,
    Setting,
    Settings,
)
from tests.kit.spoiling import Wrong


def forgets(controller: str) -> Any:
    """Drop a controller's limits in silence."""

    def pe_cgroup_settings(limits: Limits, request: CgroupRequest) -> Settings:
        found = v1.pe_cgroup_settings(limits, request)
        return replace(found, writes=tuple(write for write in found.writes if write.controller != controller))

    return pe_cgroup_settings


def gives_tenfold(limits: Limits, request: CgroupRequest) -> Settings:
    found = v1.pe_cgroup_settings(limits, request)
    return replace(found, writes=tuple(map(_tenfold, found.writes)))


def _tenfold(write: Setting) -> Setting:
    return replace(write, value=str(int(write.value) * 10)) if write.file == "cpu.cfs_quota_us" else write


def applies_once_only() -> Any:
    applied: set[str] = set()

    def pe_cgroup_apply(record: Record, settings: Settings, limits: Limits) -> None:
        group = record["groups"]["memory"]
        if group not in applied:
            applied.add(group)
            v1.pe_cgroup_apply(record, settings, limits)

    return pe_cgroup_apply


def only_says_frozen(record: Record, frozen: bool) -> None:
    """Freeze nothing."""


def kills_all_but_one(record: Record) -> None:
    for pid in v1.pe_cgroup_pids(record)[1:]:
        os.kill(pid, signal.SIGKILL)


def lists_only_the_top(record: Record) -> tuple[int, ...]:
    with open(f"{record['groups']['pids']}/cgroup.procs") as stream:
        return tuple(map(int, stream.read().split()))


def counts_no_oom_kills(record: Record) -> CgroupStats:
    return replace(v1.pe_cgroup_stats(record), oom_kills=0)


def counts_one_too_many(record: Record) -> CgroupStats:
    found = v1.pe_cgroup_stats(record)
    return replace(found, pids=(found.pids or 0) + 1)


def collects_also_the_valid(host: Host, parent: str, valid_ids: frozenset[str]) -> Any:
    return v1.pe_cgroup_gc(host, parent, frozenset())


def collects_also_of_others(host: Host, parent: str, valid_ids: frozenset[str]) -> Any:
    others = replace(host, root=HostPath("/somewhere/else"))
    return [*v1.pe_cgroup_gc(host, parent, valid_ids), *v1.pe_cgroup_gc(others, parent, valid_ids)]


def enters_only_some(record: Record) -> CgroupEntry:
    found = v1.pe_cgroup_entry(record)
    return replace(found, tasks=tuple(path for path in found.tasks if "memory" not in path))


def shows_it_writable(request: CgroupRequest, target: HostPath) -> tuple[Mount, ...]:
    return tuple(replace(each, flags=each.flags & ~MS_RDONLY) for each in v1.pe_cgroup_mounts(request, target))


def leaves_one_hierarchy(request: CgroupRequest, record: Record) -> None:
    groups = {name: group for name, group in record["groups"].items() if name != "pids"}
    v1.pe_cgroup_remove(request, {**record, "groups": groups})


WRONG = [
    Wrong("forgets_memory", v1, "cgroup.memory.killed", "took 96 of 32 MiB: 0, not -9",
          {"pe_cgroup_settings": forgets("memory")}),
    Wrong("drops_limits_in_silence", v1, "cgroup.settings.honest", "--cpus is neither written nor named",
          {"pe_cgroup_settings": forgets("cpu")}),
    Wrong("gives_tenfold", v1, "cgroup.cpu.quota", "the quota is 0.05", {"pe_cgroup_settings": gives_tenfold}),
    Wrong("forgets_processors", v1, "cgroup.cpuset.processors", "processors of a process in the group",
          {"pe_cgroup_settings": forgets("cpuset")}),
    Wrong("forgets_pids", v1, "cgroup.pids.limit", "children until fork was refused: 50, not 9",
          {"pe_cgroup_settings": forgets("pids")}),
    Wrong("forgets_disks", v1, "cgroup.disk.write-bytes", "writing for a second by the limit took 0",
          {"pe_cgroup_settings": forgets("blkio")}),
    Wrong("forgets_devices", v1, "cgroup.devices.list", "was opened", {"pe_cgroup_settings": forgets("devices")}),
    Wrong("applies_once_only", v1, "cgroup.update.memory", "memory limit in the stats",
          {"pe_cgroup_apply": applies_once_only()}),
    Wrong("only_says_frozen", v1, "cgroup.freeze.stands-still", "counts of frozen processes a while later",
          {"pe_cgroup_freeze": only_says_frozen}),
    Wrong("kills_all_but_one", v1, "cgroup.kill.all", "pids after kill", {"pe_cgroup_kill": kills_all_but_one}),
    Wrong("lists_only_the_top", v1, "cgroup.pids.exact", "pids of the group", {"pe_cgroup_pids": lists_only_the_top}),
    Wrong("counts_no_oom_kills", v1, "cgroup.memory.oom-counted", "oom kills after 1: 0, not 1",
          {"pe_cgroup_stats": counts_no_oom_kills}),
    Wrong("counts_one_too_many", v1, "cgroup.stats.pids", "processes in", {"pe_cgroup_stats": counts_one_too_many}),
    Wrong("collects_also_the_valid", v1, "cgroup.gc.unknown", "pids of the valid group after gc",
          {"pe_cgroup_gc": collects_also_the_valid}),
    Wrong("collects_also_of_others", v1, "cgroup.gc.others", "lines of gc",
          {"pe_cgroup_gc": collects_also_of_others}),
    Wrong("enters_only_some", v1, "cgroup.enter.alike", "groups a process has entered",
          {"pe_cgroup_entry": enters_only_some}),
    Wrong("shows_it_writable", v1, "cgroup.mounts.own-group", "can be written",
          {"pe_cgroup_mounts": shows_it_writable}),
    Wrong("leaves_one_hierarchy", v1, "cgroup.remove.twice", "groups after remove",
          {"pe_cgroup_remove": leaves_one_hierarchy}),
]  # fmt: skip
