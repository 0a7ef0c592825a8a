"""Read durations as Go writes them: "1h30m", "500ms", "1.5s"; see time.ParseDuration in Go's standard library."""

from __future__ import annotations

from typing import Final

SECOND_NS: Final = 1_000_000_000
_UNITS: Final = {
    "h": 3600 * SECOND_NS,
    "m": 60 * SECOND_NS,
    "s": SECOND_NS,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,  # the Greek letter; above is the micro sign
    "ns": 1,
}
_LONGEST_NS: Final = (1 << 63) - 1
_NUMBER: Final = frozenset("0123456789.")


def parse_duration(text: str) -> int | None:
    """Return nanoseconds, never negative; None when the text is no duration, or longer than 292 years."""
    total, rest = 0.0, text
    while rest:
        number = _leading(rest, _NUMBER)
        rest = rest[len(number) :]
        unit = _unit(rest)
        if unit is None or not number.strip(".") or number.count(".") > 1:
            return None
        total += float(number) * _UNITS[unit]
        rest = rest[len(unit) :]
    return int(total) if text and total <= _LONGEST_NS else None


def _leading(text: str, characters: frozenset[str]) -> str:
    end = next((at for at, character in enumerate(text) if character not in characters), len(text))
    return text[:end]


def _unit(text: str) -> str | None:
    return next((unit for unit in sorted(_UNITS, key=len, reverse=True) if text.startswith(unit)), None)
