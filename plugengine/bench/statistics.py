"""Medians with bootstrap intervals, and ratios taken pair by pair; pure, and the same for the same seed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

RESAMPLES: Final = 2000
_LEVEL: Final = 0.95
_FEWEST: Final = 3  # with fewer values an interval would pretend to know something
_COUNTS: Final = 2  # cells have as many values as there were rounds, or one fewer where the run was interrupted


class Interval(Struct, frozen=True, kw_only=True):
    """An estimate and the interval it is in with 95 % confidence; without enough values the interval is unknown."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def known(self) -> bool:
        """Whether there were enough values for an interval."""
        return self.low is not None and self.high is not None

    def holds(self, number: float) -> bool:
        """Tell whether the number may be the true value; with an unknown interval every number may."""
        return self.low is None or self.high is None or self.low <= number <= self.high

    def overlaps(self, other: Interval) -> bool:
        """Tell whether the two may be the same."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the median with its percentile bootstrap interval (Efron 1979), drawn with this seed."""
    count, value = len(values), median(values)
    if count < _FEWEST:
        return Interval(value=value)
    return _around(value, [median([values[index] for index in draw]) for draw in _draws(count, seed)])


def paired_ratio(values: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the median of value/baseline of the same round, with its interval.

    What slows a whole round down, such as a neighbour on the machine, is in both numbers of a pair and cancels out.

    Raises:
        ValueError: The two do not have the same length, or none, or a baseline is not above 0.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values for {len(baseline)} of the baseline")
    if min(baseline, default=0) <= 0:
        raise ValueError("a baseline that is not above 0")
    return interval([value / base for value, base in zip(values, baseline, strict=True)], seed=seed)


def unpaired_ratio(values: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the ratio of two medians of separate runs, with its interval: both are drawn anew each time.

    Raises:
        ValueError: One has no values, or the baseline's median is not above 0.
    """
    below = median(baseline)
    if below <= 0:
        raise ValueError("a baseline that is not above 0")
    value = median(values) / below
    if min(len(values), len(baseline)) < _FEWEST:
        return Interval(value=value)
    generator = random.Random(seed)  # noqa: S311 - statistics, no secret

    def once() -> float:
        mine = [generator.choice(values) for _ in values]
        theirs = [generator.choice(baseline) for _ in baseline]
        return median(mine) / (median(theirs) or below)

    return _around(value, [once() for _ in range(RESAMPLES)])


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of numbers above 0, the mean that fits ratios.

    Raises:
        ValueError: There is no value, or one is not above 0.
    """
    from math import exp, log

    if not values or min(values) <= 0:
        raise ValueError("needs values above 0")
    return exp(sum(log(value) for value in values) / len(values))


@lru_cache(maxsize=_COUNTS)
def _draws(count: int, seed: int) -> tuple[Sequence[int], ...]:
    """Return which of so many values each sample consists of: the same for all cells of a run with as many values."""
    generator = random.Random(seed)  # noqa: S311 - statistics, no secret
    # Arrays: with thousands of rounds lists of integers would take hundreds of megabytes.
    return tuple(array("I", [generator.randrange(count) for _ in range(count)]) for _ in range(RESAMPLES))


def _around(value: float, estimates: Sequence[float]) -> Interval:
    """Return an estimate with the interval that most of those from samples are in."""
    found = sorted(estimates)
    outside = (1 - _LEVEL) / 2
    low, high = found[int(outside * RESAMPLES)], found[int((1 - outside) * RESAMPLES) - 1]
    return Interval(value=value, low=min(low, value), high=max(high, value))
