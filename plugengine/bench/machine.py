"""Say where a run was taken and how much it was disturbed, and drop the kernel's caches for cold ones."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from plugengine.bench.results import Machine, Run
from plugengine.bench.statistics import interval
from plugengine.kernel.mountinfo import MountEntry, mount_of

_DROP_CACHES: Final = "/proc/sys/vm/drop_caches"
_EVERYTHING: Final = "3\n"  # page cache, dentries and inodes; see proc_sys_vm(5)
_GOVERNOR: Final = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_SLOW_GOVERNORS: Final = ("powersave", "conservative")
_VENDORS: Final = "/sys/class/dmi/id"
_HYPERVISORS: Final = {
    "QEMU": "qemu",
    "KVM": "kvm",
    "VMware": "vmware",
    "Xen": "xen",
    "innotek GmbH": "oracle",
    "VirtualBox": "oracle",
    "Microsoft Corporation": "microsoft",
    "Google": "google",
    "Amazon EC2": "amazon",
    "OpenStack": "openstack",
    "Firecracker": "firecracker",
}
_KIB: Final = 1024
_MOST_STEAL_PERCENT: Final = 1.0
_MOST_LOAD: Final = 0.5  # runnable processes for each processor, before there is one of ours
_MOST_LOAD_AFTER: Final = 2.0  # with those of the run itself
_WIDE: Final = 0.25  # of the median, half an interval
_MANY: Final = 0.2  # of the cells


class Times(Struct, frozen=True, kw_only=True):
    """Processor time since the machine started, in ticks; see proc_stat(5)."""

    total: int
    steal: int


class Watch:
    """Watches the machine during a run.

    Args:
        directory: Where is measured.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._load = os.getloadavg()[0]
        self._times = read_times()

    def machine(self) -> Machine:
        """Return the facts, the disturbance until now among them."""
        from importlib.metadata import version

        system = os.uname()
        return Machine(
            host=system.nodename,
            kernel=f"{system.release} {system.machine}",
            cpu=_field("/proc/cpuinfo", "model name") or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) * _KIB,
            filesystem=filesystem(self._directory),
            directory=self._directory,
            python=platform.python_version(),
            plugengine=version("plugengine"),
            virtual=virtual(),
            governor=_content(_GOVERNOR),
            load_before=self._load,
            load_after=os.getloadavg()[0],
            steal_percent=steal_percent(self._times, read_times()),
        )


def noise(run: Run) -> tuple[str, ...]:
    """Return a sentence for each sign that the figures of a run are disturbed; pure."""
    machine = run.machine
    cores = max(machine.cores, 1)
    found: list[str] = []
    if machine.load_before > _MOST_LOAD * cores:
        found.append(f"the machine was busy before the run: load {machine.load_before:.2f} on {cores} processors")
    elif machine.load_after > _MOST_LOAD_AFTER * cores:
        found.append(f"the machine was busy during the run: load {machine.load_after:.2f} on {cores} processors")
    if machine.steal_percent > _MOST_STEAL_PERCENT:
        found.append(f"the hypervisor took {machine.steal_percent:.1f} % of the processor time (steal)")
    if machine.governor in _SLOW_GOVERNORS:
        found.append(f"the processors' frequency governor is {machine.governor}, which changes speed with the load")
    taken = max((len(cell.rounds) for cell in run.cells), default=0)
    if 0 < taken < run.rounds and not run.partial:
        found.append(f"there was time for {taken} of {run.rounds} rounds: --rounds takes them all, however long it is")
    return (*found, *_wide(run))


def _wide(run: Run) -> Iterator[str]:
    known = wide = 0
    for cell in run.cells:
        if not cell.values:
            continue
        found = interval(cell.values, seed=run.seed)
        if found.low is not None and found.high is not None:
            known += 1
            wide += (found.high - found.low) / 2 > _WIDE * abs(found.value)
    if known and wide > _MANY * known:
        yield f"{wide} of {known} intervals are wider than ±{_WIDE:.0%} of the median: more rounds, or a quieter time"


def drop_caches() -> str:
    """Write back and drop the page cache, dentries and inodes of the whole machine.

    Returns: why that is not permitted, in words to follow "caches not dropped: "; empty if it was done.
    """
    os.sync()  # only what is clean can be dropped
    try:
        with open(_DROP_CACHES, "w", encoding="ascii") as stream:
            stream.write(_EVERYTHING)
    except OSError as exc:
        return f"{_DROP_CACHES}: {str(exc.strerror).lower()}"
    return ""


def filesystem(directory: str) -> str:
    """Return the type of the filesystem that holds a directory, and the options it is mounted with."""
    entry = mount_of(directory)
    return "unknown" if entry is None else f"{entry.fstype} ({', '.join(_options(entry))})"


def _options(entry: MountEntry) -> list[str]:
    return list(dict.fromkeys((*entry.options, *entry.super_options)))


def read_times() -> Times:
    """Return the processors' times since the start."""
    return parse_times(_content("/proc/stat"))


def parse_times(text: str) -> Times:
    """Parse /proc/stat; the guests' times are in the users' already."""
    numbers = [int(word) for word in text.partition("\n")[0].split()[1:9]]
    return Times(total=sum(numbers), steal=numbers[7] if len(numbers) > 7 else 0)


def steal_percent(before: Times, after: Times) -> float:
    """Return how much of the time between was taken by the hypervisor."""
    passed = after.total - before.total
    return round(100 * (after.steal - before.steal) / passed, 2) if passed > 0 else 0.0


def virtual() -> str:
    """Return what the machine is virtualised by, as far as it tells; empty on bare metal."""
    for name in ("sys_vendor", "product_name", "board_vendor", "bios_vendor"):
        text = _content(f"{_VENDORS}/{name}")
        for vendor, short in _HYPERVISORS.items():
            if vendor.lower() in text.lower():
                return short
    flags = (_field("/proc/cpuinfo", "flags") or "").split()
    return "vm-other" if "hypervisor" in flags else ""


def _field(path: str, name: str) -> str | None:
    for line in _content(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
