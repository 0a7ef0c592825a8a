"""What this host has of namespaces: compiled in, not limited to zero, and ours to make."""

from __future__ import annotations

import os

_ALWAYS = ("pid", "net", "mnt", "uts", "ipc", "cgroup")
# include/uapi/linux/capability.h
_CAP_SYS_ADMIN = 21


def reasons() -> list[str]:
    """Return why ordinary containers can't have their namespaces here; none: they can."""
    found = [reason for name in _ALWAYS if (reason := missing(name))]
    if not _effective_capabilities() >> _CAP_SYS_ADMIN & 1:
        found.append("no CAP_SYS_ADMIN: run as root, outside of an unprivileged container")
    return found


def missing(name: str) -> str | None:
    """Return why this host can't make a namespace of this kind, as a sentence a person can act on."""
    if not os.path.lexists(f"/proc/self/ns/{name}"):
        return f"no {name} namespaces: the kernel is built without CONFIG_{name.upper()}_NS"
    # A limit of zero is how some hardening guides turn a kind off; see namespaces(7), "/proc/sys/user".
    setting = f"user.max_{name}_namespaces"
    if _read(f"/proc/sys/{setting.replace('.', '/')}").strip() == "0":
        return f"no {name} namespaces: sysctl {setting} is 0"
    return None


def _effective_capabilities() -> int:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
