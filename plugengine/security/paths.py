"""Paths of proc and sysfs that a container must not read, or must not write; as docker masks them."""

from __future__ import annotations

import os
import re

from plugengine.model import GuestPath

# Files are covered by the null device, directories by an empty read-only tmpfs; what is not there needs no cover.
MASKED: tuple[GuestPath, ...] = (
    GuestPath("/proc/acpi"),
    GuestPath("/proc/asound"),
    # Timing of other tenants' interrupts: GHSA-6fw5-f8r9-fgfm
    GuestPath("/proc/interrupts"),
    GuestPath("/proc/kcore"),
    GuestPath("/proc/keys"),
    GuestPath("/proc/latency_stats"),
    GuestPath("/proc/sched_debug"),
    GuestPath("/proc/scsi"),
    GuestPath("/proc/timer_list"),
    GuestPath("/proc/timer_stats"),
    GuestPath("/sys/devices/virtual/powercap"),
    GuestPath("/sys/firmware"),
)

READ_ONLY: tuple[GuestPath, ...] = (
    GuestPath("/proc/bus"),
    GuestPath("/proc/fs"),
    GuestPath("/proc/irq"),
    GuestPath("/proc/sys"),
    GuestPath("/proc/sysrq-trigger"),
)

_CPUS = "/sys/devices/system/cpu"
_CPU = re.compile(r"cpu[0-9]+")


def masked() -> tuple[GuestPath, ...]:
    """Return `MASKED` and the thermal counters of each processor of this machine.

    Those counters tell one guest how hot another runs (GHSA-jq35-85cj-fj4p); a virtual machine mostly has none.
    """
    try:
        entries = sorted(os.listdir(_CPUS))
    except FileNotFoundError:
        return MASKED
    counters = (f"{_CPUS}/{name}/thermal_throttle" for name in entries if _CPU.fullmatch(name))
    return MASKED + tuple(GuestPath(path) for path in counters if os.path.isdir(path))
