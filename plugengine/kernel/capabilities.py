"""Names and numbers of capabilities; see capabilities(7)."""

from __future__ import annotations

import os

# include/uapi/linux/capability.h: the position is the number
_NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

CAPABILITIES: dict[str, int] = {name: number for number, name in enumerate(_NAMES)}

CAP_SETPCAP = CAPABILITIES["CAP_SETPCAP"]
CAP_SYS_ADMIN = CAPABILITIES["CAP_SYS_ADMIN"]
CAP_SYS_PTRACE = CAPABILITIES["CAP_SYS_PTRACE"]
CAP_SYS_RESOURCE = CAPABILITIES["CAP_SYS_RESOURCE"]


def capability_number(name: str) -> int:
    """Return the number of a capability, given in any case, with or without its CAP_ prefix.

    Raises:
        ValueError: No such capability; near names are offered.
    """
    full = name.upper()
    if not full.startswith("CAP_"):
        full = f"CAP_{full}"
    number = CAPABILITIES.get(full)
    if number is None:
        raise ValueError(_unknown(name, full))
    return number


def _unknown(name: str, full: str) -> str:
    import difflib

    near = difflib.get_close_matches(full, _NAMES)
    return f"no capability named {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def capability_name(number: int) -> str:
    """Return the CAP_ name of a number, or "CAP_n" as capsh(1) does for one newer than this table."""
    return _NAMES[number] if 0 <= number < len(_NAMES) else f"CAP_{number}"


def capability_set(names: list[str] | tuple[str, ...]) -> int:
    """Return the set of named capabilities as an int, bit n for capability n."""
    result = 0
    for name in names:
        result |= 1 << capability_number(name)
    return result


def capability_names(bits: int) -> list[str]:
    """Return the names in a set, in the order of their numbers."""
    return [capability_name(number) for number in range(bits.bit_length()) if bits >> number & 1]


def last_cap() -> int:
    """Return the highest capability of the running kernel, from /proc/sys/kernel/cap_last_cap."""
    fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)
