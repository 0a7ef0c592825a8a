"""The words of the page: figures as text, and text of third parties made harmless."""

from __future__ import annotations

import unicodedata

from plugengine.bench.page.figures import Figure, Row
from plugengine.bench.results import HIGHER, Run, Workload
from plugengine.bench.units import number


def clean(text: str) -> str:
    """Return text without control characters, which HTML and SVG may not contain; line ends become spaces."""
    spaced = " ".join(text.split())
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in ("Cc", "Cs") else each for each in spaced
    )


def better(workload: Workload) -> str:
    """Return which way is good."""
    return "higher is better" if workload.better == HIGHER else "lower is better"


def median_text(row: Row, figure: Figure) -> str:
    """Return the median with its unit, or nothing."""
    return row.scale.text(figure.median.value) if figure.median is not None else ""


def interval_text(row: Row, figure: Figure) -> str:
    """Return the median's interval without a unit; nothing if it is not known."""
    if figure.median is None or figure.median.low is None or figure.median.high is None:
        return ""
    return _span(figure.median.low / row.scale.factor, figure.median.high / row.scale.factor)


def ratio_text(figure: Figure, run: Run) -> str:
    """Return the ratio to the baseline with its interval, and whether that is a difference."""
    if figure.cost is None:
        return "baseline" if figure.column.name == run.baseline else ""
    text = times(figure.cost.value)
    if figure.cost.low is None or figure.cost.high is None:
        return f"{text}, too few rounds"
    span = f"{text} ({_span(figure.cost.low, figure.cost.high)})"
    return f"{span}, no difference" if figure.cost.holds(1) else span


def times(factor: float) -> str:
    """Return a factor as text."""
    return f"{number(factor)}\N{MULTIPLICATION SIGN}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _span(low: float, high: float) -> str:
    return f"{number(low)}–{number(high)}"  # noqa: RUF001 - an en dash between two ends
