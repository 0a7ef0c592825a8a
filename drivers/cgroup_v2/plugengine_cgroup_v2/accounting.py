"""Read the accounting of a group."""

from __future__ import annotations

from plugengine.cgroups.filesystem import keyed, read
from plugengine.model import CgroupStats, Record

_NS_PER_US = 1000


def stats(record: Record) -> CgroupStats:
    """Return what the controllers that are there count; a group that is gone has used nothing we know of."""
    group: str = record["group"]
    usage_us = keyed(_text(group, "cpu.stat")).get("usage_usec")
    usage = _number(group, "memory.current")
    inactive = keyed(_text(group, "memory.stat")).get("inactive_file", 0)
    read_bytes, write_bytes = _transferred(_text(group, "io.stat"))
    return CgroupStats(
        cpu_usage_ns=None if usage_us is None else usage_us * _NS_PER_US,
        # Without the page cache the kernel would give back first, as docker shows it.
        memory_bytes=None if usage is None else max(usage - inactive, 0),
        memory_limit_bytes=_number(group, "memory.max"),
        pids=_number(group, "pids.current"),
        read_bytes=read_bytes,
        write_bytes=write_bytes,
        oom_kills=keyed(_text(group, "memory.events")).get("oom_kill", 0),
    )


def _text(group: str, file: str) -> str:
    try:
        return read(f"{group}/{file}")
    except OSError:
        return ""


def _number(group: str, file: str) -> int | None:
    """Return the only number in a file; "max" counts as None."""
    text = _text(group, file).strip()
    return int(text) if text.isdigit() else None


def _transferred(text: str) -> tuple[int | None, int | None]:
    """Return bytes read and written of all disks; lines are "8:0 rbytes=1 wbytes=2 rios=…"."""
    totals = {"rbytes": 0, "wbytes": 0}
    found = False
    for line in text.splitlines():
        for field in line.split()[1:]:
            key, _, value = field.partition("=")
            if key in totals and value.isdigit():
                totals[key] += int(value)
                found = True
    return (totals["rbytes"], totals["wbytes"]) if found else (None, None)
