"""The page's tables: what the charts show, as text."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from plugengine.bench.page.data import colour, shown_name
from plugengine.bench.page.figures import Figure, Figures, Row, State
from plugengine.bench.page.words import better, clean, interval_text, median_text, ratio_text, times
from plugengine.bench.results import Column, Run


def means_table(figures: Figures) -> Iterator[str]:
    """Yield the geometric means; a mean says over how many workloads it is, as failures are not in it."""
    whole = len(figures.rows)
    yield '<table><thead><tr><th scope="col">Driver</th><th scope="col">Geometric mean</th>'
    yield '<th scope="col">Workloads</th></tr></thead><tbody>'
    for mean in figures.means:
        value = "" if mean.value is None else times(mean.value)
        if mean.column.name == figures.run.baseline:
            value = "1"
        count = f"{mean.count} of {whole}" if mean.value is not None else ""
        if mean.column.reason:
            count = State.UNSUPPORTED.value
        yield f"<tr>{_name(mean.column, figures.run)}<td>{value}</td><td>{count}</td></tr>"
    yield "</tbody></table>"


def numbers_table(figures: Figures) -> Iterator[str]:
    """Yield a table for each group: a body for each workload, a row for each column."""
    heads = ("Driver", "Median", "95 % interval", "Cost")
    for group, rows in figures.groups:
        yield f'<table class="numbers"><caption><bdi>{escape(clean(group))}</bdi></caption><thead><tr>'
        yield "".join(f'<th scope="col">{head}</th>' for head in heads)
        yield '<th scope="col" class="count">Rounds</th></tr></thead>'
        for row in rows:
            yield from _body(row, figures.run, len(heads) + 1)
        yield "</table>"


def versions(run: Run) -> Iterator[str]:
    """Yield what each column was."""
    yield "<dl>"
    for column in run.columns:
        options = " ".join(f"{name}={value}" for name, value in sorted(column.options.items()))
        facts = [f"{column.distribution} {column.version}".strip(), options]
        if column.limit:
            facts.insert(0, "the limit: what the hardware and the filesystem give")
        if column.reason:
            facts.append(f"not supported here: {column.reason}")
        said = ", ".join(fact for fact in facts if fact)
        yield f"<dt><bdi>{escape(clean(column.name))}</bdi></dt><dd><bdi>{escape(clean(said))}</bdi></dd>"
    yield "</dl>"


def _body(row: Row, run: Run, width: int) -> Iterator[str]:
    workload = row.workload
    yield f'<tbody id="numbers-{row.key}"><tr class="title"><th colspan="{width}" scope="rowgroup">'
    yield f'<bdi>{escape(clean(workload.title))}</bdi> <span class="quiet">{better(workload)}</span></th></tr>'
    for figure in row.figures:
        name = _name(figure.column, run)
        yield f'<tr class="{figure.state.name.lower()}">{name}{_cells(row, figure, run, width)}</tr>'
    yield "</tbody>"


def _cells(row: Row, figure: Figure, run: Run, width: int) -> str:
    if figure.state is not State.MEASURED:
        reason = f"{figure.state.mark} {figure.state.value}"
        if figure.state is State.FAILED:  # why a driver is not supported stands once, below
            reason += f": <bdi>{escape(clean(figure.reason))}</bdi>"
        return f'<td colspan="{width - 1}" class="why">{reason}</td>'
    # An interval stays on one line if it can; these brackets are ours.
    cost = ratio_text(figure, run).replace("(", '<span class="whole">(').replace(")", ")</span>")
    return (
        f'<td class="value">{escape(median_text(row, figure))}</td><td class="value">{interval_text(row, figure)}</td>'
        f'<td>{cost}</td><td class="count">{len(figure.values)}</td>'
    )


def _name(column: Column, run: Run) -> str:
    dot = f'<span class="dot" style="background: {colour(run, column)}"></span>'
    return f'<th scope="row">{dot}<bdi>{escape(clean(shown_name(column, run)))}</bdi></th>'
