"""Write a run, or a comparison of two, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from plugengine.bench.comparing import BETTER, BROKEN, SAME, UNSURE, WORSE, Change, Comparison
from plugengine.bench.costs import cost
from plugengine.bench.results import Column, Run, Workload
from plugengine.bench.statistics import Interval, interval, median
from plugengine.bench.units import Scale, number, scale
from plugengine.state.names import one_line

Write = Callable[[str], object]

_GAP: Final = "  "
_NARROWEST: Final = 40
_NO_SENSE: Final = "-"
_FAILED: Final = "failed"
_UNSURE_MARK: Final = "?"
_KNOWN_FROM: Final = 3  # values; see `statistics.interval`
_BINARY_GIB: Final = 1 << 30
_RANKS: Final = {BROKEN: 0, WORSE: 1, BETTER: 2}


def write_run(write: Write, run: Run, *, width: int) -> None:
    """Write a run: one table for as many columns as the width takes, then what failed, what is missing, and the noise.

    Args:
        write: Takes text.
        run: What to show.
        width: Of the terminal, in characters.
    """
    for line in run_lines(run, width=width):
        write(f"{one_line(line).rstrip()}\n")


def run_lines(run: Run, *, width: int) -> Iterator[str]:
    """Yield the lines of a run; pure."""
    shown = [column for column in run.columns if not column.reason]
    rows = [_Row(run, workload, shown) for workload in run.workloads]
    for part in _parts(run, shown, rows, width):
        yield from _matrix(part, rows)
        yield ""
    yield from _legend(run)
    yield from _section("failed", _failures(run))
    yield from _section("not measured here", (f"{each.name}: {each.reason}" for each in run.columns if each.reason))
    yield from _section("notes", (f"{each.name}: {each.note}" for each in run.workloads if each.note))
    yield from _section("warnings", run.warnings)


class _Row:
    """One workload; its cells share a unit."""

    def __init__(self, run: Run, workload: Workload, columns: Sequence[Column]) -> None:
        self.workload = workload
        cells = [run.cell(workload.name, column.name) for column in columns]
        medians = [median(cell.values) for cell in cells if cell.values and not cell.error]
        unit = scale(workload.unit, medians)
        self.heading = f"{workload.name} [{unit.unit}]" if unit.unit else workload.name
        self.texts = {column.name: _cell(run, workload, column, unit) for column in columns}


def _cell(run: Run, workload: Workload, column: Column, unit: Scale) -> str:
    cell = run.cell(workload.name, column.name)
    if cell.absent:
        return _NO_SENSE
    if cell.error:
        return _FAILED
    found = interval(cell.values, seed=run.seed)
    text = f"{number(found.value / unit.factor)}{_spread(found, unit)}"
    return f"{text} {_cost_text(run, workload, column)}".rstrip()


def _spread(found: Interval, unit: Scale) -> str:
    if found.low is None or found.high is None:
        return ""
    half = max(found.high - found.value, found.value - found.low)
    return f" ±{number(half / unit.factor)}"


def _cost_text(run: Run, workload: Workload, column: Column) -> str:
    """Return the cost: "1.23x", "no difference", "1.23x?"; empty if there is none."""
    found = cost(run, workload, column)
    if found is None:
        return ""
    if not found.known:
        return f"{number(found.value)}x{_UNSURE_MARK}"
    return SAME if found.holds(1.0) else f"{number(found.value)}x"


def _parts(run: Run, columns: Sequence[Column], rows: Sequence[_Row], width: int) -> Iterator[list[Column]]:
    """Divide the columns among tables; the baseline comes first, then in the order of the run."""
    ordered = sorted(columns, key=lambda column: column.name != run.baseline)
    room = max(width, _NARROWEST) - max((len(row.heading) for row in rows), default=0)
    part: list[Column] = []
    used = 0
    for column in ordered:
        needs = _width(column, rows) + len(_GAP)
        if part and used + needs > room:
            yield part
            part, used = [], 0
        part.append(column)
        used += needs
    if part:
        yield part


def _width(column: Column, rows: Sequence[_Row]) -> int:
    return max(len(_title(column)), *(len(row.texts[column.name]) for row in rows), 0)


def _title(column: Column) -> str:
    return f"{column.name} (limit)" if column.limit else column.name


def _matrix(columns: Sequence[Column], rows: Sequence[_Row]) -> Iterator[str]:
    first = max((len(row.heading) for row in rows), default=0)
    widths = [_width(column, rows) for column in columns]
    titles = _GAP.join(_title(column).ljust(width) for column, width in zip(columns, widths, strict=True))
    yield f"{'':{first}}{_GAP}{titles}"
    group = None
    for row in rows:
        if row.workload.group != group:
            group = row.workload.group
            yield group
        cells = _GAP.join(row.texts[column.name].ljust(width) for column, width in zip(columns, widths, strict=True))
        yield f"{row.heading:{first}}{_GAP}{cells}"


def _legend(run: Run) -> Iterator[str]:
    machine = run.machine
    rounds = sorted({len(cell.rounds) for cell in run.cells if cell.values})
    least, most = (rounds[0], rounds[-1]) if rounds else (0, 0)
    taken = f"{least} to {most}" if least != most else str(most)
    of = "" if least == run.rounds else f" of {run.rounds}"
    word = "round" if run.rounds == 1 else "rounds"
    yield f"medians of {taken}{of} {word} with 95 % intervals (±); x: times what {run.baseline} costs"
    if any(0 < len(cell.values) < _KNOWN_FROM for cell in run.cells):
        yield f"{_UNSURE_MARK}: fewer than {_KNOWN_FROM} values, so the interval is unknown"
    memory = f"{machine.memory_bytes / _BINARY_GIB:.1f} GiB"
    yield f"{machine.cpu}, {machine.cores} processors, {memory}, Linux {machine.kernel}, {machine.filesystem}"
    yield f"seed {run.seed}, {run.duration_s:.0f} s, {run.started}"
    if run.partial:
        yield "INTERRUPTED: these are the results until then"


def _failures(run: Run) -> Iterator[str]:
    """Yield a line for each error of a column; the same one is said once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in run.failures:
        groups.setdefault((cell.column, cell.error), []).append(cell.workload)
    for (column, error), workloads in groups.items():
        everything = len(workloads) == len(run.workloads) > 1
        yield f"{column}, {'everything' if everything else ', '.join(workloads)}: {error}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield f"{title}:"
        yield from (f"{_GAP}{line}" for line in found)


def comparison_lines(found: Comparison, threshold: float, *, everything: bool = False) -> Iterator[str]:
    """Yield the lines of a comparison, the worst first; what does not differ is shown only with `everything`."""
    shown = [each for each in found.changes if everything or each.verdict not in (SAME, UNSURE)]
    shown.sort(key=lambda each: (_RANKS.get(each.verdict, len(_RANKS)), -each.slower if _bad(each) else each.slower))
    cells = [(each.workload, each.column, _change_text(each, threshold)) for each in shown]
    first, second = (max((len(cell[place]) for cell in cells), default=0) for place in (0, 1))
    for workload, column, text in cells:
        yield f"{workload:{first}}{_GAP}{column:{second}}{_GAP}{text}"
    yield from _section("only in the first", found.only_before)
    yield from _section("only in the second", found.only_after)
    yield from _section("warnings", found.warnings)
    if cells or found.warnings or found.only_before or found.only_after:
        yield ""
    yield _summary(found)


def _bad(change: Change) -> bool:
    return change.verdict in (WORSE, BROKEN)


def _change_text(change: Change, threshold: float) -> str:
    mark = "  PAST THE THRESHOLD" if change.past(threshold) else ""
    if change.ratio is None:
        return f"{change.verdict}{f': {change.error}' if change.error else ''}{mark}"
    ratio = change.ratio
    around = "" if ratio.low is None or ratio.high is None else f" [{number(ratio.low)}, {number(ratio.high)}]"
    return f"{number(ratio.value)}x{around} {change.verdict}{mark}"


def _summary(found: Comparison) -> str:
    counts: dict[str, int] = {}
    for change in found.changes:
        counts[change.verdict] = counts.get(change.verdict, 0) + 1
    words = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in sorted(counts, key=lambda each: _RANKS.get(each, 9))
    )
    return f"{len(found.changes)} cells compared: {words or 'none is in both'}"
