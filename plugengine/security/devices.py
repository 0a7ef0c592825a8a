"""Devices of a container: the nodes in its /dev, and which device numbers it may open or make."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
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

# What docker leaves out of a privileged container's /dev: it has its own, or they are no devices.
_OWN_DEVICES: Final = frozenset({"pts", "shm", "fd", "mqueue", "console", "ptmx", "stdin", "stdout", "stderr", "core"})

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


def rules_for(path: HostPath, access: str = "rwm") -> tuple[DeviceRule, ...]:
    """Return the rules that allow a device of the host, or all below a directory, for `--device`.

    Raises:
        NotFoundError: No such file.
        UsageError: The file is no device, the directory has none, or the access is not made of r, w and m.
    """
    if not _ACCESS.fullmatch(access):
        raise UsageError(f"--device {path}: access {access!r} is not made of r, w and m")
    try:
        found = [os.stat(host) for host, _guest in devices_below(os.fsencode(path), b"")]
    except FileNotFoundError:
        raise NotFoundError(f"--device {path}: no such device on this host") from None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    if not found:
        raise UsageError(f"--device {path}: no device is in this directory")
    if not kinds.keys() >= {stat.S_IFMT(each.st_mode) for each in found}:
        raise UsageError(f"--device {path}: not a character or block device")
    numbers = dict.fromkeys((kinds[stat.S_IFMT(each.st_mode)], each.st_rdev) for each in found)
    return tuple(
        DeviceRule(type=kind, major=os.major(number), minor=os.minor(number), access=_in_order(access))
        for kind, number in numbers
    )


def devices_below(host: bytes, guest: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a path of the host and its place in the guest, or those of all devices below a directory.

    Symbolic links in it are not followed, and what is no device is passed over. Of the host's whole /dev what every
    container has of its own is left out.

    Raises:
        FileNotFoundError: The path does not exist.
    """
    if not stat.S_ISDIR(os.stat(host).st_mode):
        yield host, guest
        return
    with os.scandir(host) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if host == b"/dev" and os.fsdecode(entry.name) in _OWN_DEVICES:
                continue
            try:
                kind = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue  # unplugged while we looked
            if stat.S_ISDIR(kind) or stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
                yield from devices_below(entry.path, guest + b"/" + entry.name)


def _number(text: str, end: int, rule: str) -> int | None:
    if text == "*":
        return None
    # Compared by length first: int() of a very long string is slow.
    if len(text) > len(str(end)) or int(text) >= end:
        raise UsageError(f"--device-cgroup-rule {rule!r}: {text[:20]} is not below {end}")
    return int(text)


def _in_order(access: str) -> str:
    return "".join(letter for letter in "rwm" if letter in access)
