"""Describe the machine that figures come from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from plugengine.model import HostPath
from plugengine.testing.case_directory import filesystem_of

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
        "filesystem": filesystem_of(HostPath(str(work))),
        "python": platform.python_version(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
