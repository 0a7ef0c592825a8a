"""Take measurements in rounds: columns interleaved in random order, failures kept apart, an interrupt is no loss."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from math import isfinite
from typing import TypeAlias

from msgspec import Struct, field

from plugengine.bench.results import Cell

# Called before each measurement and at the end: how many are done, of how many, and what comes now ("" at the end).
Progress: TypeAlias = Callable[[int, int, str], None]


class Measurement(Struct, frozen=True, kw_only=True):
    """One cell to be: `take` does the work once and returns the value in the workload's unit.

    Any exception of `take` becomes the cell's error; its further rounds are skipped, all other cells go on.
    """

    workload: str
    column: str
    take: Callable[[], float]


def draw_seed() -> int:
    """Return a seed for a run whose user has given none."""
    return random.SystemRandom().randrange(1, 1 << 32)


def run_rounds(
    measurements: Sequence[Measurement],
    *,
    rounds: int,
    warmup: int,
    seed: int,
    progress: Progress,
    budget_s: float | None = None,
) -> tuple[tuple[Cell, ...], bool]:
    """Take every measurement once per round.

    In each round the workloads come in random order, and within a workload its columns do, so that values that are
    compared were taken close together in time. The order depends on the seed alone, not on what fails.

    Args:
        measurements: At most one for each workload and column.
        rounds: How many are kept, numbered from 1.
        warmup: How many come before these; their values are thrown away.
        seed: Of the random order.
        progress: Told what is done.
        budget_s: No round after the first kept one begins if it would probably end later than this.

    Returns:
        A cell for each measurement, in the order given, and whether it was interrupted (KeyboardInterrupt).
    """
    session = _Session(measurements, progress, (warmup + rounds) * len(measurements))
    generator = random.Random(seed)  # noqa: S311 - an order, no secret
    begun = time.monotonic()
    longest = 0.0
    try:
        for number in range(1 - warmup, rounds + 1):
            before = time.monotonic()
            if budget_s is not None and number > 1 and before - begun + longest > budget_s:
                break
            session.round(number, _order(measurements, generator))
            longest = max(longest, time.monotonic() - before)
        session.end()
    except KeyboardInterrupt:
        return session.cells(), True
    return session.cells(), False


class _Taken(Struct, kw_only=True):
    """What there is of one cell so far."""

    values: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    error: str = ""


class _Session:
    """Collects the cells while rounds are run."""

    def __init__(self, measurements: Sequence[Measurement], progress: Progress, total: int) -> None:
        self._taken = {(each.workload, each.column): _Taken() for each in measurements}
        self._progress = progress
        self._done = 0
        self._total = total

    def round(self, number: int, order: Sequence[Measurement]) -> None:
        """Take each once; a number below 1 is a warm-up."""
        for each in order:
            taken = self._taken[each.workload, each.column]
            if not taken.error:
                self._progress(self._done, self._total, f"{each.workload} {each.column}")
                _take(each, number, taken)
            self._done += 1

    def end(self) -> None:
        """Say that nothing more comes."""
        self._progress(self._total, self._total, "")

    def cells(self) -> tuple[Cell, ...]:
        """Return what there is."""
        return tuple(
            Cell(
                workload=workload,
                column=column,
                values=tuple(taken.values),
                rounds=tuple(taken.rounds),
                error=taken.error,
            )
            for (workload, column), taken in self._taken.items()
        )


def _take(each: Measurement, number: int, taken: _Taken) -> None:
    where = f"round {number}" if number > 0 else "warm-up"
    try:
        value = float(each.take())
    except Exception as exc:  # noqa: BLE001 - a driver may raise anything, and the others go on
        taken.error = f"{where}: {str(exc) or type(exc).__name__}"
        return
    if not isfinite(value) or value < 0:
        taken.error = f"{where}: {value} is no measurement"
    elif number > 0:
        taken.values.append(value)
        taken.rounds.append(number)


def _order(measurements: Sequence[Measurement], generator: random.Random) -> list[Measurement]:
    """Return the order of one round: workloads at random, the columns of each together and at random."""
    groups: dict[str, list[Measurement]] = {}
    for each in measurements:
        groups.setdefault(each.workload, []).append(each)
    names = list(groups)
    generator.shuffle(names)
    for name in names:
        generator.shuffle(groups[name])
    return [each for name in names for each in groups[name]]
