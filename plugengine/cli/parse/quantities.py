"""Read sizes, processor shares and other numbers."""

from __future__ import annotations

from typing import Final

from plugengine import quantities
from plugengine.cli.parse.errors import FlagError

PERIOD_US: Final = 100_000  # docker's and the kernel's default; see the kernel's sched-bwc.rst
_SHORTEST_QUOTA_US: Final = 1000  # kernel/sched/core.c: min_cfs_quota_period


def parse_size(flag: str, text: str, *, example: str = "64m") -> int:
    """Return the bytes of "64m", "1.5g", "1GiB" or "4096"; units are powers of 1024, as docker's.

    Raises:
        FlagError: Not a size.
    """
    try:
        return quantities.size(text)
    except ValueError as exc:
        raise FlagError(flag, text, str(exc), example=example) from None


def parse_limit(flag: str, text: str, *, example: str = "64m") -> int | None:
    """Return a size, or None for 0: no limit of our own."""
    return parse_size(flag, text, example=example) or None


def parse_memory_swap(flag: str, text: str) -> int | None:
    """Return the sum of memory and swap, -1 for unlimited swap, None for 0: as if not given."""
    return -1 if text.strip() == "-1" else parse_limit(flag, text, example="128m")


def parse_cpus(flag: str, text: str, *, available: int) -> int | None:
    """Return the microseconds in each 100 ms for "0.5" processors; None for 0, no limit.

    Raises:
        FlagError: Not a number, too small for the kernel, or more than there are.
    """
    whole, _, fraction = text.strip().partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(quantities.LARGEST)):
        raise FlagError(flag, text, "not a number of processors", example="0.5")
    quota = int(whole or 0) * PERIOD_US + int(fraction or 0) * PERIOD_US // 10 ** len(fraction)
    if quota > available * PERIOD_US:
        raise FlagError(flag, text, f"this host has {available}", example=str(available))
    if quota < _SHORTEST_QUOTA_US and int(digits):
        raise FlagError(flag, text, "less than the hundredth of a processor, the least the kernel takes", example="0.5")
    return quota or None


def parse_int(flag: str, text: str, *, low: int, high: int, example: str | None = None) -> int:
    """Return a whole number between `low` and `high`.

    Raises:
        FlagError: It is not a number, or outside the range.
    """
    try:
        return quantities.integer(text, least=low, most=high)
    except ValueError as exc:
        raise FlagError(flag, text, str(exc), example=example or str(max(low, 1))) from None


def parse_choice(flag: str, text: str, choices: tuple[str, ...]) -> str:
    """Return one of a few words.

    Raises:
        FlagError: Another word.
    """
    if text not in choices:
        raise FlagError(flag, text, f"not {', '.join(choices[:-1])} or {choices[-1]}", example=choices[0])
    return text


def parse_bool(flag: str, text: str) -> bool:
    """Return what "true", "1", "t" … or "false", "0", "f" … say; Go's words.

    Raises:
        FlagError: Another word.
    """
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise FlagError(flag, text, "not true or false")
