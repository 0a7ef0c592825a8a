"""Turn limits into writes to the control files of version 2."""

from __future__ import annotations

import os

from plugengine.cgroups.filesystem import read
from plugengine.cgroups.limits import (
    any_disk_uses_bfq,
    check_list,
    check_memory,
    has_swap,
    memory_and_swap,
    weight_of_shares,
)
from plugengine.model import Limits, Setting, Settings

from plugengine_cgroup_v2.host import Unified

SWAP_LIMIT = "memory.swap.max"
_NONE = "max"

_RATES = (
    ("read_bps", "rbps", "--device-read-bps"),
    ("write_bps", "wbps", "--device-write-bps"),
    ("read_iops", "riops", "--device-read-iops"),
    ("write_iops", "wiops", "--device-write-iops"),
)

# --blkio-weight is 10 … 1000, io.weight 1 … 10000; block/bfq-cgroup.c keeps the older scale
_LEAST_BLKIO_WEIGHT = 10
_BLKIO_WEIGHTS = 1000 - 10
_IO_WEIGHTS = 10_000 - 1


def limits_to_settings(limits: Limits, host: Unified) -> Settings:
    """Return the writes in order, and what this host can't hold. The device list is a program, not a write.

    Raises:
        UsageError: Limits that contradict each other, or processors that are not there.
    """
    plan = _Plan(host)
    check_memory(limits)
    _cpuset(plan, limits)
    _cpu(plan, limits)
    _memory(plan, limits)
    if limits.pids is not None:
        plan.put("--pids-limit", "pids", "pids.max", limits.pids if limits.pids > 0 else _NONE)
    _io(plan, limits)
    return Settings(writes=tuple(plan.writes), unsupported=tuple(plan.unsupported))


class _Plan:
    """The writes so far; a controller or file that is not there becomes a line about the flag."""

    def __init__(self, host: Unified) -> None:
        self.host = host
        self.writes: list[Setting] = []
        self.unsupported: list[str] = []

    def put(self, flag: str, controller: str, file: str, value: object) -> None:
        if controller in self.host.controllers:
            self.writes.append(Setting(controller="", file=file, value=str(value)))
        else:
            self.refuse(flag, f"the unified hierarchy has no {controller} controller")

    def refuse(self, flag: str, reason: str) -> None:
        self.unsupported.append(f"{flag}: {reason}")


def _cpuset(plan: _Plan, limits: Limits) -> None:
    for flag, file, value in (
        ("--cpuset-cpus", "cpuset.cpus", limits.cpuset_cpus),
        ("--cpuset-mems", "cpuset.mems", limits.cpuset_mems),
    ):
        if value is None:
            continue
        available = f"{plan.host.base}/{file}.effective"
        if os.path.exists(available):
            check_list(value, read(available), flag)
        plan.put(flag, "cpuset", file, value)


def _cpu(plan: _Plan, limits: Limits) -> None:
    if limits.cpu_shares is not None:
        plan.put("--cpu-shares", "cpu", "cpu.weight", weight_of_shares(limits.cpu_shares))
    if limits.cpu_quota_us is not None:
        quota = limits.cpu_quota_us if limits.cpu_quota_us > 0 else _NONE
        plan.put("--cpus", "cpu", "cpu.max", f"{quota} {limits.cpu_period_us}")


def _memory(plan: _Plan, limits: Limits) -> None:
    if limits.memory_bytes is not None:
        plan.put("--memory", "memory", "memory.max", limits.memory_bytes if limits.memory_bytes > 0 else _NONE)
    total = memory_and_swap(limits)
    if total is not None and ("memory" in plan.host.controllers or limits.memory_swap_bytes is not None):
        _swap(plan, limits, total)
    if limits.memory_reservation_bytes is not None:
        plan.put("--memory-reservation", "memory", "memory.low", limits.memory_reservation_bytes)


def _swap(plan: _Plan, limits: Limits, total: int) -> None:
    """Version 2 limits swap by itself, the flag both together."""
    sample = plan.host.sample()
    if sample is not None and not os.path.exists(f"{sample}/{SWAP_LIMIT}"):
        if limits.memory_swap_bytes is not None and has_swap():
            plan.refuse("--memory-swap", f"no {SWAP_LIMIT} on this kernel: swapaccount=1 on its command line brings it")
        return
    plan.put("--memory-swap", "memory", SWAP_LIMIT, total - (limits.memory_bytes or 0) if total >= 0 else _NONE)


def _io(plan: _Plan, limits: Limits) -> None:
    if limits.blkio_weight is not None:
        _weight(plan, limits.blkio_weight)
    by_device: dict[str, list[str]] = {}
    flags: dict[str, None] = {}
    for field, key, flag in _RATES:
        for one in getattr(limits, field):
            by_device.setdefault(f"{one.major}:{one.minor}", []).append(f"{key}={one.rate or _NONE}")
            flags[flag] = None
    if "io" not in plan.host.controllers:
        for flag in flags:
            plan.refuse(flag, "the unified hierarchy has no io controller")
        return
    for device, rates in by_device.items():
        plan.put("", "io", "io.max", f"{device} {' '.join(rates)}")


def _weight(plan: _Plan, weight: int) -> None:
    """Weigh by what is in use on some disk: the weights of io.cost (Linux 5.4) or those of the BFQ scheduler."""
    if "io" not in plan.host.controllers:
        plan.refuse("--blkio-weight", "the unified hierarchy has no io controller")
    elif _io_cost_in_use(plan.host.base):
        scaled = 1 + (weight - _LEAST_BLKIO_WEIGHT) * _IO_WEIGHTS // _BLKIO_WEIGHTS
        plan.put("--blkio-weight", "io", "io.weight", f"default {scaled}")
    elif any_disk_uses_bfq():
        plan.put("--blkio-weight", "io", "io.bfq.weight", weight)
    else:
        plan.refuse("--blkio-weight", "no disk of this host has io.cost or the bfq scheduler in use")


def _io_cost_in_use(base: str) -> bool:
    try:
        return "enable=1" in read(f"{base}/io.cost.qos")
    except OSError:
        return False
