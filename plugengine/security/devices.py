"""Devices of a container: the nodes in its /dev, and which device numbers it may open or make."""

from __future__ import annotations

import os
import re
import stat
from typing import Final, NamedTuple

from plugengine.errors import NotFoundError, UsageError
from plugengine.model import DeviceRule, GuestPath, HostPath


class DeviceNode(NamedTuple):
    """One character device of every container's /dev; see Documentation/admin-guide/devices.txt."""

    path: GuestPath
    major: int
    minor: int
    mode: int


_EVERYONE: Final = 0o666

NODES: tuple[DeviceNode, ...] = (
    DeviceNode(GuestPath("/dev/null"), 1, 3, _EVERYONE),
    DeviceNode(GuestPath("/dev/zero"), 1, 5, _EVERYONE),
    DeviceNode(GuestPath("/dev/full"), 1, 7, _EVERYONE),
    DeviceNode(GuestPath("/dev/random"), 1, 8, _EVERYONE),
    DeviceNode(GuestPath("/dev/urandom"), 1, 9, _EVERYONE),
    DeviceNode(GuestPath("/dev/tty"), 5, 0, _EVERYONE),
)

# (link, target)
LINKS: tuple[tuple[GuestPath, str], ...] = (
    (GuestPath("/dev/fd"), "/proc/self/fd"),
    (GuestPath("/dev/stdin"), "/proc/self/fd/0"),
    (GuestPath("/dev/stdout"), "/proc/self/fd/1"),
    (GuestPath("/dev/stderr"), "/proc/self/fd/2"),
    (GuestPath("/dev/core"), "/proc/kcore"),
    (GuestPath("/dev/ptmx"), "pts/ptmx"),
)

_CONSOLE = DeviceRule(type="c", major=5, minor=1, access="rwm")
_PTMX = DeviceRule(type="c", major=5, minor=2, access="rwm")
_PTS = DeviceRule(type="c", major=136, minor=None, access="rwm")

# Making any node is harmless while opening it is refused; builds of packages and images do it. /dev/fuse (10:229) is
# deliberately not here: a FUSE server in a container can hold processes of the host for ever.
RULES: tuple[DeviceRule, ...] = (
    DeviceRule(type="c", major=None, minor=None, access="m"),
    DeviceRule(type="b", major=None, minor=None, access="m"),
    *(DeviceRule(type="c", major=node.major, minor=node.minor, access="rwm") for node in NODES),
    _CONSOLE,
    _PTMX,
    _PTS,
)

_RULE = re.compile(r"([abc]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
_ACCESS = re.compile(r"[rwm]{1,3}")
# Widths of a device number in the kernel, include/linux/kdev_t.h
_MAJOR_END = 1 << 12
_MINOR_END = 1 << 20


def parse_rule(text: str) -> DeviceRule:
    """Parse one `--device-cgroup-rule`, such as "c 42:* rmw"; see cgroup-v1/devices.rst.

    Raises:
        UsageError: Not a rule, or numbers no device can have.
    """
    found = _RULE.fullmatch(text)
    if not found:
        raise UsageError(
            f"--device-cgroup-rule {text!r}: not a rule", hint="give type major:minor access, such as 'c 42:* rmw'"
        )
    kind, major, minor, access = found.groups()
    return DeviceRule(
        type=kind,
        major=_number(major, _MAJOR_END, text),
        minor=_number(minor, _MINOR_END, text),
        access=_in_order(access),
    )


def rule_for(path: HostPath, access: str = "rwm") -> DeviceRule:
    """Return the rule that allows one device of the host, for `--device`.

    Raises:
        NotFoundError: No such file.
        UsageError: The file is no device, or the access is not made of r, w and m.
    """
    if not _ACCESS.fullmatch(access):
        raise UsageError(f"--device {path}: access {access!r} is not made of r, w and m")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise NotFoundError(f"--device {path}: no such device on this host") from None
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        raise UsageError(f"--device {path}: not a character or block device")
    return DeviceRule(type=kind, major=os.major(found.st_rdev), minor=os.minor(found.st_rdev), access=_in_order(access))


def _number(text: str, end: int, rule: str) -> int | None:
    if text == "*":
        return None
    # Compared by length first: int() of a very long string is slow.
    if len(text) > len(str(end)) or int(text) >= end:
        raise UsageError(f"--device-cgroup-rule {rule!r}: {text[:20]} is not below {end}")
    return int(text)


def _in_order(access: str) -> str:
    return "".join(letter for letter in "rwm" if letter in access)
