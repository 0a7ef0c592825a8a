"""Read `--device`, `--device-cgroup-rule`, `--device-read-bps` and its like, and `--ulimit`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from plugengine.bundle import Rlimit
from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.quantities import parse_int, parse_size
from plugengine.model import DeviceRate, GuestPath, HostPath
from plugengine.spec import Device

_ACCESS: Final = frozenset("rwm")
_MOST_OPERATIONS: Final = 2**32 - 1  # block/blk-throttle.c: iops limits are 32 bits wide
_LARGEST_RLIMIT: Final = 2**63 - 1
UNLIMITED: Final = -1

# getrlimit(2), in the words of docker
RLIMITS: Final = (
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
)


def parse_device(flag: str, text: str) -> Device:
    """Return the device of `host[:guest][:access]`.

    Raises:
        FlagError: A path is not absolute, or the access is not of r, w and m.
    """
    parts = text.split(":")
    access = "rwm"
    if len(parts) > 1 and not parts[-1].startswith("/"):
        access = parts.pop()
        if not access or not set(access) <= _ACCESS or len(set(access)) != len(access):
            raise FlagError(flag, text, f"access {access or '(empty)'} is not of r, w and m", example="/dev/sda:r")
    if len(parts) > 2 or not all(part.startswith("/") for part in parts):
        raise FlagError(flag, text, "not HOST[:GUEST][:ACCESS] with absolute paths", example="/dev/fuse")
    return Device(host=HostPath(parts[0]), guest=GuestPath(parts[-1]), access=access)


def parse_device_rule(flag: str, text: str) -> str:
    """Return a rule of the device controller, `TYPE MAJOR:MINOR ACCESS`, when it is one.

    Raises:
        FlagError: It is not one.
    """
    words = text.split()
    numbers = words[1].split(":") if len(words) == 3 else []
    good = (
        len(numbers) == 2
        and words[0] in ("a", "b", "c")
        and all(number == "*" or (number.isascii() and number.isdigit()) for number in numbers)
        and set(words[2]) <= _ACCESS
    )
    if not good:
        raise FlagError(flag, text, "not TYPE MAJOR:MINOR ACCESS", example="'c 42:* rmw'")
    return " ".join(words)


def parse_rate(
    flag: str, text: str, *, operations: bool, status: Callable[[str], os.stat_result] = os.stat
) -> DeviceRate:
    """Return the limit of `path:rate`, the rate in bytes (1mb) or operations a second.

    Args:
        flag: For messages.
        text: The value.
        operations: The rate is a number of operations, without a unit.
        status: stat(2), for the device's number.

    Raises:
        FlagError: The rate is not one, or the path is no block device.
    """
    example = "/dev/sda:1000" if operations else "/dev/sda:1mb"
    path, colon, rate = text.rpartition(":")
    if not colon or not path.startswith("/"):
        raise FlagError(flag, text, "not DEVICE:RATE", example=example)
    if operations:
        number = parse_int(flag, rate, low=1, high=_MOST_OPERATIONS, example=example)
    else:
        number = parse_size(flag, rate, example=example)
    if number == 0:
        raise FlagError(flag, text, "a rate of 0 would stop the device", example=example)
    try:
        found = status(path)
    except OSError as exc:
        raise FlagError(flag, text, f"{path}: {str(exc.strerror).lower()}", example=example) from exc
    if not stat.S_ISBLK(found.st_mode):
        raise FlagError(flag, text, f"{path} is not a block device", example=example)
    return DeviceRate(major=os.major(found.st_rdev), minor=os.minor(found.st_rdev), rate=number)


def parse_ulimit(flag: str, text: str) -> Rlimit:
    """Return the limit of `name=soft[:hard]`; -1 or "unlimited" is none.

    Raises:
        FlagError: No such limit, or soft above hard.
    """
    name, equals, values = text.partition("=")
    name = name.lower().removeprefix("rlimit_")
    if name not in RLIMITS:
        import difflib

        close = difflib.get_close_matches(name, RLIMITS, n=1)
        why = f"did you mean {close[0]}?" if close else f"known: {', '.join(RLIMITS)}"
        raise FlagError(flag, text, f"there is no limit {name or '(empty)'}, {why}", example="nofile=1024:2048")
    soft_text, colon, hard_text = values.partition(":")
    if not equals or not soft_text or (colon and not hard_text):
        raise FlagError(flag, text, "not NAME=SOFT[:HARD]", example=f"{name}=1024:2048")
    soft = _parse_rlimit(flag, soft_text)
    hard = _parse_rlimit(flag, hard_text) if colon else soft
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise FlagError(flag, text, "the soft limit is above the hard one", example=f"{name}=1024:2048")
    return Rlimit(name=name, soft=soft, hard=hard)


def _parse_rlimit(flag: str, text: str) -> int:
    if text == "unlimited":
        return UNLIMITED
    return parse_int(flag, text, low=UNLIMITED, high=_LARGEST_RLIMIT, example="nofile=1024:2048")
