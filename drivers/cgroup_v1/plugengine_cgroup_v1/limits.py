"""Turn limits into writes to the control files of version 1."""

from __future__ import annotations

from plugengine.cgroups.limits import any_disk_uses_bfq, check_list, check_memory, has_swap, memory_and_swap
from plugengine.model import DeviceRule, Limits, Setting, Settings

from plugengine_cgroup_v1.host import ControlFiles, ControllerSet

MEMORY_LIMIT = "memory.limit_in_bytes"
MEMORY_AND_SWAP_LIMIT = "memory.memsw.limit_in_bytes"
DENY = "devices.deny"
ALLOW = "devices.allow"
EVERYTHING = "a"

_RATES = (
    ("read_bps", "--device-read-bps", "blkio.throttle.read_bps_device"),
    ("write_bps", "--device-write-bps", "blkio.throttle.write_bps_device"),
    ("read_iops", "--device-read-iops", "blkio.throttle.read_iops_device"),
    ("write_iops", "--device-write-iops", "blkio.throttle.write_iops_device"),
)


def limits_to_settings(limits: Limits, controllers: ControllerSet) -> Settings:
    """Return the writes in order, and what this host can't hold.

    Raises:
        UsageError: Limits that contradict each other, or processors that are not there.
    """
    plan = _Plan(ControlFiles(controllers))
    check_memory(limits)
    _cpuset(plan, limits)
    _cpu(plan, limits)
    _memory(plan, limits)
    _pids(plan, limits)
    _blkio(plan, limits)
    _devices(plan, limits)
    return Settings(writes=tuple(plan.writes), unsupported=tuple(plan.unsupported))


class _Plan:
    """The writes so far; a file that is not there becomes a line about the flag."""

    def __init__(self, files: ControlFiles) -> None:
        self.files = files
        self.writes: list[Setting] = []
        self.unsupported: list[str] = []

    def put(self, flag: str, controller: str, file: str, value: object) -> None:
        if reason := self.files.missing(controller, file):
            self.refuse(flag, reason)
        else:
            self.write(controller, file, value)

    def write(self, controller: str, file: str, value: object) -> None:
        self.writes.append(Setting(controller=controller, file=file, value=str(value)))

    def refuse(self, flag: str, reason: str) -> None:
        line = f"{flag}: {reason}"
        if line not in self.unsupported:
            self.unsupported.append(line)


def _cpuset(plan: _Plan, limits: Limits) -> None:
    for flag, file, value in (
        ("--cpuset-cpus", "cpuset.cpus", limits.cpuset_cpus),
        ("--cpuset-mems", "cpuset.mems", limits.cpuset_mems),
    ):
        if value is None:
            continue
        if not plan.files.missing("cpuset", file):
            check_list(value, plan.files.text("cpuset", file), flag)
        plan.put(flag, "cpuset", file, value)


def _cpu(plan: _Plan, limits: Limits) -> None:
    if limits.cpu_shares is not None:
        plan.put("--cpu-shares", "cpu", "cpu.shares", limits.cpu_shares)
    if limits.cpu_quota_us is not None:
        plan.put("--cpus", "cpu", "cpu.cfs_period_us", limits.cpu_period_us)
        plan.put("--cpus", "cpu", "cpu.cfs_quota_us", limits.cpu_quota_us)


def _memory(plan: _Plan, limits: Limits) -> None:
    if limits.memory_bytes is not None:
        plan.put("--memory", "memory", MEMORY_LIMIT, limits.memory_bytes)
    total = memory_and_swap(limits)
    if total is not None:
        missing = plan.files.missing("memory", MEMORY_AND_SWAP_LIMIT)
        if not missing:
            plan.write("memory", MEMORY_AND_SWAP_LIMIT, total)
        elif limits.memory_swap_bytes is not None and has_swap():
            plan.refuse("--memory-swap", f"{missing}: swapaccount=1 on its command line brings it")
    if limits.memory_reservation_bytes is not None:
        plan.put("--memory-reservation", "memory", "memory.soft_limit_in_bytes", limits.memory_reservation_bytes)


def _pids(plan: _Plan, limits: Limits) -> None:
    if limits.pids is not None:
        # pids.max is not in the root group, which is the base here mostly.
        if reason := plan.files.missing("pids", "cgroup.procs"):
            plan.refuse("--pids-limit", reason)
        else:
            plan.write("pids", "pids.max", limits.pids if limits.pids > 0 else "max")


def _blkio(plan: _Plan, limits: Limits) -> None:
    if limits.blkio_weight is not None:
        _weight(plan, limits.blkio_weight)
    for field, flag, file in _RATES:
        for one in getattr(limits, field):
            plan.put(flag, "blkio", file, f"{one.major}:{one.minor} {one.rate}")


def _weight(plan: _Plan, weight: int) -> None:
    """Only BFQ weighs (CFQ went with Linux 5.0), and only on disks that use it.

    The weight is not in the root group, so a file that is there whenever BFQ is stands for it.
    """
    if not plan.files.missing("blkio", "blkio.weight"):
        plan.write("blkio", "blkio.weight", weight)
    elif reason := plan.files.missing("blkio", "blkio.bfq.io_service_bytes"):
        plan.refuse("--blkio-weight", reason.replace("io_service_bytes", "weight"))
    elif not any_disk_uses_bfq():
        plan.refuse("--blkio-weight", "no disk of this host has the bfq scheduler in use")
    else:
        plan.write("blkio", "blkio.bfq.weight", weight)


def _devices(plan: _Plan, limits: Limits) -> None:
    if limits.devices is None:
        return
    if reason := plan.files.missing("devices", DENY):
        plan.refuse("device allow-list", reason)
        return
    plan.write("devices", DENY, EVERYTHING)
    for rule in limits.devices:
        for line in _lines(rule):
            plan.write("devices", ALLOW, line)


def _lines(rule: DeviceRule) -> list[str]:
    """Return what devices.allow takes for a rule.

    The kernel reads any line that begins with "a" as "everything", whatever numbers follow
    (security/device_cgroup.c), so an "a" that means less is written as its two halves.
    """
    numbers = ":".join("*" if number is None else str(number) for number in (rule.major, rule.minor))
    if rule.type != EVERYTHING:
        return [f"{rule.type} {numbers} {rule.access}"]
    if numbers == "*:*" and set(rule.access) == set("rwm"):
        return [EVERYTHING]
    return [f"c {numbers} {rule.access}", f"b {numbers} {rule.access}"]
