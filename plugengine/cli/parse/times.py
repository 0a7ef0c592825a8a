"""Read points in time, as `--since` and `--until` have them."""

from __future__ import annotations

from typing import Final

from plugengine.cli.parse.errors import FlagError
from plugengine.quantities import SECOND_NS, duration_ns

_EXAMPLE: Final = "10m"


def parse_moment(flag: str, text: str, *, now_ns: int) -> int:
    """Return nanoseconds since the epoch of a date (RFC 3339), a Unix time, or a duration before now ("1h30m").

    Raises:
        FlagError: None of the three.
    """
    duration = duration_ns(text)
    if duration is not None:
        return now_ns - duration
    seconds, _, fraction = text.partition(".")
    if (seconds + fraction).isascii() and (seconds + fraction).isdigit() and seconds:
        return int(seconds) * SECOND_NS + int((fraction + "000000000")[:9])
    moment = parse_date(text)
    if moment is None:
        raise FlagError(flag, text, "not a date, a Unix time or a duration", example=_EXAMPLE)
    return moment


def parse_date(text: str) -> int | None:
    """Return nanoseconds since the epoch of a date, of RFC 3339 or a part of it in local time; None: no date."""
    import time
    from datetime import datetime

    time.tzset()  # the process may have been started by a caller with another TZ
    head, dot, tail = text.partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    try:
        moment = datetime.fromisoformat(head + tail[digits:])
    except ValueError:
        return None
    if dot and not digits:
        return None
    return int(moment.astimezone().timestamp()) * SECOND_NS + int((tail[:digits] + "000000000")[:9])
