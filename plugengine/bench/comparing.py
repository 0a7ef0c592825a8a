"""Compare two runs cell by cell: what changed for better or worse, beyond the noise of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from plugengine.bench.results import LOWER, Column, Run, Workload
from plugengine.bench.statistics import Interval, unpaired_ratio
from plugengine.errors import UsageError

BETTER: Final = "better"
WORSE: Final = "worse"
SAME: Final = "no difference"
UNSURE: Final = "too few values"
BROKEN: Final = "fails now"
REPAIRED: Final = "works now"
FAILING: Final = "fails in both"


class Change(Struct, frozen=True, kw_only=True):
    """What became of one cell."""

    workload: str
    column: str
    verdict: str
    ratio: Interval | None = None  # after / before; None if one of them failed
    slower: float = 1.0  # by which factor it got worse, whatever the direction; below 1: better
    error: str = ""  # why it fails now

    def past(self, threshold: float) -> bool:
        """Tell whether it got worse by more than this part; what fails now did."""
        return self.verdict == BROKEN or (self.verdict == WORSE and self.slower - 1 > threshold)


class Comparison(Struct, frozen=True, kw_only=True):
    """Two runs compared."""

    changes: tuple[Change, ...]
    only_before: tuple[str, ...]  # "workload walk-cold", "column vfs"
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]  # sentences: why the two may differ for other reasons

    def past(self, threshold: float) -> tuple[Change, ...]:
        """Return the changes for the worse beyond a threshold."""
        return tuple(change for change in self.changes if change.past(threshold))


def compare(before: Run, after: Run) -> Comparison:
    """Compare the cells that both runs have.

    Raises:
        UsageError: They are runs of different kinds.
    """
    if before.kind != after.kind:
        raise UsageError(
            f"compare: a run of pe bench {before.kind} with one of pe bench {after.kind}",
            hint="compare runs of one kind",
        )
    workloads = [each for each in after.workloads if any(each.name == other.name for other in before.workloads)]
    columns = [each for each in after.columns if any(each.name == other.name for other in before.columns)]
    changes = [_change(before, after, workload, column) for workload in workloads for column in columns]
    return Comparison(
        changes=tuple(change for change in changes if change is not None),
        only_before=tuple(_only(before, after)),
        only_after=tuple(_only(after, before)),
        warnings=tuple(_differences(before, after)),
    )


def _change(before: Run, after: Run, workload: Workload, column: Column) -> Change | None:
    was, now = before.cell(workload.name, column.name), after.cell(workload.name, column.name)
    if was.absent or now.absent:
        return None
    if was.error or now.error:
        verdict = FAILING if was.error and now.error else (BROKEN if now.error else REPAIRED)
        return Change(workload=workload.name, column=column.name, verdict=verdict, error=now.error)
    if min(was.values) <= 0:
        return Change(
            workload=workload.name, column=column.name, verdict=SAME if set(was.values) == set(now.values) else UNSURE
        )
    ratio = unpaired_ratio(now.values, was.values, seed=after.seed)
    slower = ratio.value if workload.better == LOWER else (1 / ratio.value if ratio.value else float("inf"))
    return Change(
        workload=workload.name, column=column.name, verdict=_verdict(ratio, slower), ratio=ratio, slower=slower
    )


def _verdict(ratio: Interval, slower: float) -> str:
    if not ratio.known:
        return UNSURE
    if ratio.holds(1.0):
        return SAME
    return WORSE if slower > 1 else BETTER


def _only(mine: Run, other: Run) -> Iterator[str]:
    workloads, columns = {each.name for each in other.workloads}, {each.name for each in other.columns}
    yield from (f"workload {each.name}" for each in mine.workloads if each.name not in workloads)
    yield from (f"column {each.name}" for each in mine.columns if each.name not in columns)


def _differences(before: Run, after: Run) -> Iterator[str]:
    for name in ("host", "kernel", "cpu", "cores", "memory_bytes", "filesystem", "python", "virtual", "governor"):
        was, now = getattr(before.machine, name), getattr(after.machine, name)
        if was != now:
            yield f"the machines differ: {name.removesuffix('_bytes')} {was or 'unknown'}, then {now or 'unknown'}"
    for name, words in (("place", "measured"), ("image", "image")):
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            yield f"the runs differ: {words} {was or 'none'}, then {now or 'none'}"
    yield from _column_differences(before, after)
    for run, which in ((before, "first"), (after, "second")):
        if run.partial:
            yield f"the {which} run was interrupted"
        yield from (f"the {which} run: {warning}" for warning in run.warnings)


def _column_differences(before: Run, after: Run) -> Iterator[str]:
    others = {each.name: each for each in before.columns}
    for column in after.columns:
        was = others.get(column.name)
        if was is not None and dict(was.options) != dict(column.options):
            yield f"{column.name}: other options: {_words(was)}, then {_words(column)}"


def _words(column: Column) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(column.options.items())) or "none"
