"""Read what people write: sizes, durations, numbers, switches. Each function raises ValueError with a sentence."""

from __future__ import annotations

from typing import Final

UNITS: Final = "kmgtp"
LARGEST: Final = 2**63 - 1  # the kernel's loff_t and every control file
_STEP_BITS: Final = 10  # 1024
_SIZE: Final = "not a size: a number and b, k, m, g, t or p"
_DURATION: Final = "not a duration: seconds, or numbers with h, m, s or ms, as in 1m30s"
SECOND_NS: Final = 1_000_000_000
_UNITS_NS: Final = {
    "h": 3600 * SECOND_NS,
    "ms": 1_000_000,  # before "m", which it begins with
    "m": 60 * SECOND_NS,
    "s": SECOND_NS,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,  # the Greek letter; above is the micro sign
    "ns": 1,
}
_TRUE: Final = ("true", "on", "yes", "1", "t")
_FALSE: Final = ("false", "off", "no", "0", "f")


def size(text: str) -> int:
    """Return the bytes of "64m", "1.5g", "1GiB" or "4096"; units are powers of 1024, as docker's."""
    number, factor = _split_unit(text.strip().lower())
    whole, point, fraction = number.partition(".")
    digits = whole + fraction
    if not (whole and digits.isascii() and digits.isdigit()) or (point and not fraction):
        raise ValueError(_SIZE)
    found = (
        int(whole) * factor + int(fraction or 0) * factor // 10 ** len(fraction) if len(digits) <= 40 else LARGEST + 1
    )
    if found > LARGEST:
        raise ValueError("larger than any file or memory can be")
    return found


def _split_unit(text: str) -> tuple[str, int]:
    """Cut "64mib" into "64" and 1024²; what is left of a misspelt unit stays with the number."""
    base = text.removesuffix("b")
    if base != text and base.endswith("i"):
        base = base.removesuffix("i")
        if base[-1:] not in UNITS or not base:
            return text, 1
    if base and base[-1] in UNITS:
        return base[:-1].removesuffix(" "), 1 << _STEP_BITS * (UNITS.index(base[-1]) + 1)
    return base.removesuffix(" "), 1


def duration(text: str) -> float:
    """Return the seconds of "20", "1.5", "1m30s" or "250ms"; plain seconds, or as Go writes them."""
    stripped = text.strip().lower()
    if _is_decimal(stripped):
        return float(stripped)
    found = duration_ns(stripped)
    if found is None:
        raise ValueError(_DURATION)
    return found / SECOND_NS


def duration_ns(text: str) -> int | None:
    """Return the nanoseconds of "1h30m", "500ms" or "1.5s"; see time.ParseDuration in Go's standard library.

    Returns: never less than none; None when the text is no duration, or longer than 292 years.
    """
    total, rest = 0.0, text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = next((unit for unit in _UNITS_NS if rest.startswith(unit)), None)
        if unit is None or not number.strip(".") or number.count(".") > 1:
            return None
        total += float(number) * _UNITS_NS[unit]
        rest = rest[len(unit) :]
    return int(total) if text and total <= LARGEST else None


def _is_decimal(text: str) -> bool:
    whole, point, fraction = text.partition(".")
    return (whole + fraction).isascii() and (whole + fraction).isdigit() and bool(whole) and bool(fraction or not point)


def integer(text: str, *, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number between `least` and `most`; None: no bound."""
    stripped = text.strip()
    digits = stripped.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(LARGEST)):
        raise ValueError("not a whole number")
    number = int(stripped)
    low, high = least is not None and number < least, most is not None and number > most
    if low or high:
        bounds = f"between {least} and {most}" if least is not None and most is not None else ""
        raise ValueError(f"not {bounds or (f'{least} or more' if low else f'{most} or less')}")
    return number


def switch(text: str) -> bool:
    """Return whether a word like true, on, yes or 1 stands there, or its opposite."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("neither true nor false")
