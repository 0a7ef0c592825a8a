"""Sizes, times and identifiers as people read them, in docker's words."""

from __future__ import annotations

from typing import Final

ELLIPSIS: Final = "…"
_DECIMAL: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_WEEK: Final = 7 * _DAY
_MONTH: Final = 30 * _DAY
_YEAR: Final = 365 * _DAY
SECOND_NS: Final = 1_000_000_000


def decimal_size(size: float, *, digits: int = 3) -> str:
    """Return "4.2MB": powers of 1000."""
    return _scaled(size, 1000, _DECIMAL, digits)


def binary_size(size: float, *, digits: int = 4) -> str:
    """Return "64MiB": powers of 1024."""
    return _scaled(size, 1024, _BINARY, digits)


def _scaled(size: float, step: int, units: tuple[str, ...], digits: int) -> str:
    index = 0
    while size >= step and index < len(units) - 1:
        size /= step
        index += 1
    return f"{size:.{digits}g}{units[index]}"


def duration(seconds: float) -> str:
    """Return "5 minutes", "About an hour", "Less than a second"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if whole < 2 * _MINUTE:
        return "About a minute"
    if whole < _HOUR:
        return f"{whole // _MINUTE} minutes"
    if round(seconds / _HOUR) == 1:
        return "About an hour"
    return _long_duration(whole)


def _long_duration(whole: int) -> str:
    # Each unit is used up to two of the next one: "47 hours", "13 days", "7 weeks", "23 months".
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} hours"
    if whole < 2 * _WEEK:
        return f"{whole // _DAY} days"
    if whole < 2 * _MONTH:
        return f"{whole // _WEEK} weeks"
    if whole < 2 * _YEAR:
        return f"{whole // _MONTH} months"
    return f"{whole // _YEAR} years"


def ago(then_ns: int, now_ns: int) -> str:
    """Return "5 minutes ago"."""
    return f"{duration((now_ns - then_ns) / SECOND_NS)} ago"


def shorten(text: str, length: int) -> str:
    """Return at most `length` characters, the last one an ellipsis when something was cut off."""
    return text if len(text) <= length else f"{text[: length - 1]}{ELLIPSIS}"


def local_time(time_ns: int) -> str:
    """Return "2026-11-24 11:55:52 +0000 UTC"."""
    import time

    time.tzset()  # the process may have been started by a caller with another TZ
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(time_ns // SECOND_NS))
