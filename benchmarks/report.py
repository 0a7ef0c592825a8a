"""Describe the machine that figures come from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

KIB_PER_GIB = 1 << 20


def machine(work: Path) -> dict[str, str]:
    """Describe where the figures come from."""
    processor = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory_kib = int((_field("/proc/meminfo", "MemTotal") or "0").split()[0])
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "memory": f"{memory_kib / KIB_PER_GIB:.1f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "filesystem": _filesystem(work),
        "python": platform.python_version(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _filesystem(path: Path) -> str:
    """Return the type of the filesystem that holds `path`: the longest mount point above it."""
    best, fstype = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point, kind = line.split()[1:3]
        if path.is_relative_to(point) and len(point) >= len(best):
            best, fstype = point, kind
    return fstype
