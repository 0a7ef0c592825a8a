"""Write measured values as people read them: three digits, and a unit of the size of what is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor, log10
from typing import Final

from msgspec import Struct

from plugengine.bench.statistics import median

DIGITS: Final = 3
_BINARY: Final = tuple((1024.0**power, f"{prefix}B") for power, prefix in enumerate(("", "Ki", "Mi", "Gi", "Ti")))
_LADDERS: Final[Mapping[str, tuple[tuple[float, str], ...]]] = {
    "s": ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")),
    "B": _BINARY,
    "B/s": tuple((factor, f"{name}/s") for factor, name in _BINARY),
    "1/s": ((1.0, "/s"), (1e3, "k/s"), (1e6, "M/s")),
}


class Scale(Struct, frozen=True, kw_only=True):
    """What a value is divided by, and the unit it then has."""

    factor: float = 1.0
    unit: str = ""

    def text(self, value: float) -> str:
        """Return a value of the base unit, "12.3 ms"."""
        return f"{number(value / self.factor)} {self.unit}".rstrip()


def scale(unit: str, values: Iterable[float]) -> Scale:
    """Return one scale for values shown together: the largest in which half of them are 1 or more.

    A unit that is not known is kept as it is.
    """
    known = [value for value in values if value > 0]
    ladder = _LADDERS.get(unit)
    if ladder is None:
        return Scale(unit=unit)
    middle = median(known) if known else ladder[-1][0]
    factor, name = max((step for step in ladder if step[0] <= middle), default=ladder[0])
    return Scale(factor=factor, unit=name)


def number(value: float, digits: int = DIGITS) -> str:
    """Return a number with as many digits that count, never in powers of ten: "0.00123", "1.23", "123", "12,300"."""
    if value == 0:
        return "0"
    magnitude = floor(log10(abs(value)))
    rounded = round(value, digits - 1 - magnitude)
    magnitude = floor(log10(abs(rounded)))  # 9.996 became 10.0
    return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"
