"""Which kernel and which machine this is; see uname(2)."""

from __future__ import annotations

import os
import re
from typing import Final

_VERSION: Final = re.compile(r"(\d+)\.(\d+)")

# OCI calls machines as Go does: https://go.dev/doc/install/source#environment, GOARCH
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "loongarch64": "loong64",
}
# A processor of 64 bits runs the programs of 32 bits of its kind.
_NARROWER: Final = {"amd64": "386", "arm64": "arm"}


def kernel_version() -> tuple[int, int]:
    """Return (major, minor) of the running kernel; (0, 0) where its name has no numbers."""
    found = _VERSION.match(os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def architecture() -> str:
    """Return this machine's architecture in OCI's words; an unknown one in the kernel's."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def platform() -> str:
    """Return "linux/architecture", as images are marked."""
    return f"linux/{architecture()}"


def runs_here(wanted: str) -> bool:
    """Tell whether this machine runs programs of "os/architecture" itself; where one is not said, it counts as ours."""
    system, _slash, machine = wanted.partition("/")
    ours = architecture()
    return system in ("", "linux") and machine in ("", ours, _NARROWER.get(ours))
