"""Work out what the page shows of a run: a figure for each workload and column, and means of their ratios."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from plugengine.bench.costs import cost
from plugengine.bench.results import Column, Run, Workload
from plugengine.bench.statistics import Interval, geometric_mean, interval
from plugengine.bench.units import DIGITS, Scale, number, scale

SAME: Final = "="


class State(Enum):
    """What there is to show."""

    MEASURED = "measured"
    FAILED = "failed"
    UNSUPPORTED = "not supported here"
    ABSENT = "not measured"  # makes no sense there, or the run was interrupted before

    @property
    def mark(self) -> str:
        """Return one character for it."""
        return _MARKS[self]


_MARKS: Final = {State.MEASURED: "", State.FAILED: "✕", State.UNSUPPORTED: "–", State.ABSENT: "·"}  # noqa: RUF001


class Figure(Struct, frozen=True, kw_only=True):
    """What one column did in one workload."""

    column: Column
    state: State
    values: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()
    median: Interval | None = None
    cost: Interval | None = None  # relative to the baseline, see `costs.cost`
    reason: str = ""

    def verdict(self, digits: int = DIGITS) -> str:
        """Return the cost for a narrow place: a number, `SAME`, or a mark that says why there is none."""
        if self.state is not State.MEASURED:
            return self.state.mark
        if self.cost is None:
            return State.ABSENT.mark
        if not self.cost.known:
            return f"{number(self.cost.value, digits)}?"
        return SAME if self.cost.holds(1) else number(self.cost.value, digits)


class Row(Struct, frozen=True, kw_only=True):
    """One workload with its figures, in the order of the run's columns."""

    key: str  # short and safe in markup
    workload: Workload
    scale: Scale
    figures: tuple[Figure, ...]


class Mean(Struct, frozen=True, kw_only=True):
    """The geometric mean of a column's ratios, over as many workloads as it has one for."""

    column: Column
    value: float | None
    count: int


class Figures(Struct, frozen=True, kw_only=True):
    """All of it; `groups` is in the order in which the run names them."""

    run: Run
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    means: tuple[Mean, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Return the workloads in the order shown."""
        return tuple(row for _, rows in self.groups for row in rows)

    def failures(self) -> Iterator[tuple[Row, Figure]]:
        """Yield what was tried and failed."""
        for row in self.rows:
            for figure in row.figures:
                if figure.state is State.FAILED:
                    yield row, figure


def figures_of(run: Run) -> Figures:
    """Work out every figure of a run; the same run gives the same figures."""
    rows = [_row(run, f"w{index}", workload) for index, workload in enumerate(run.workloads)]
    names = list(dict.fromkeys(row.workload.group for row in rows))
    groups = tuple((name, tuple(row for row in rows if row.workload.group == name)) for name in names)
    return Figures(run=run, groups=groups, means=means(rows, run.columns))


def means(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Mean, ...]:
    """Return the geometric mean of each column's ratios in these rows."""
    return tuple(_mean(rows, index, column) for index, column in enumerate(columns))


def _mean(rows: Sequence[Row], index: int, column: Column) -> Mean:
    costs = [row.figures[index].cost for row in rows]
    known = [each.value for each in costs if each is not None]
    return Mean(column=column, value=geometric_mean(known) if known else None, count=len(known))


def _row(run: Run, key: str, workload: Workload) -> Row:
    figures = tuple(_figure(run, workload, column) for column in run.columns)
    medians = [figure.median.value for figure in figures if figure.median is not None]
    return Row(key=key, workload=workload, scale=scale(workload.unit, medians), figures=figures)


def _figure(run: Run, workload: Workload, column: Column) -> Figure:
    cell = run.cell(workload.name, column.name)
    if column.reason and not cell.values:
        return Figure(column=column, state=State.UNSUPPORTED, reason=column.reason)
    if cell.absent:
        return Figure(column=column, state=State.ABSENT)
    if cell.error:
        return Figure(column=column, state=State.FAILED, reason=cell.error, values=cell.values, rounds=cell.rounds)
    return Figure(
        column=column,
        state=State.MEASURED,
        values=cell.values,
        rounds=cell.rounds,
        median=interval(cell.values, seed=run.seed),
        cost=cost(run, workload, column),
    )
