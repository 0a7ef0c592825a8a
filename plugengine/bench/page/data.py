"""What the page's script draws from: plain values, scaled and put in words, so that it has nothing to work out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from math import log2
from typing import Any, Final

from plugengine.bench.page.charts import SHAPES, specs
from plugengine.bench.page.figures import Figure, Figures, Mean, Row, State, means
from plugengine.bench.page.words import better, clean, interval_text, median_text, ratio_text, times
from plugengine.bench.results import Column, Run
from plugengine.bench.units import number

COLOURS: Final = 8  # --c0 … --c7 of the style sheet; with more columns they come again
_DARKEST: Final = 2  # a cost of 2², or of 1/2², has the full colour
_DIGITS: Final = 6  # more than any clock is worth
NARROW_DIGITS: Final = 2  # of a cost on a phone
_WIDE, _NARROW = 44, 19  # characters of a line beside the map of ratios


def script_data(figures: Figures) -> Mapping[str, Any]:
    """Return all of it, ready for JSON."""
    run = figures.run
    keys = {column.name: f"c{index}" for index, column in enumerate(run.columns)}
    return {
        "specs": specs(),
        "names": {keys[column.name]: clean(shown_name(column, run)) for column in run.columns},
        "heads": {keys[column.name]: _head(column, run) for column in run.columns},
        "colours": {keys[column.name]: colour(run, column) for column in run.columns},
        "shapes": {keys[column.name]: SHAPES[index % len(SHAPES)] for index, column in enumerate(run.columns)},
        "means": [_mean(mean, run, keys) for mean in figures.means if mean.value is not None],
        "workloads": {row.key: _workload(row, run, keys) for row in figures.rows},
        "heat": _heat(figures, keys),
    }


def shown_name(column: Column, run: Run) -> str:
    """Return a column's name as charts and tables have it."""
    if column.limit:
        return f"{column.name} (limit)"
    return f"{column.name} (baseline)" if column.name == run.baseline else column.name


def colour(run: Run, column: Column) -> str:
    """Return the colour a column has throughout the page; the limit is no contender and has none of theirs."""
    if column.limit:
        return "var(--limit)"
    contenders = [each.name for each in run.columns if not each.limit]
    return f"var(--c{contenders.index(column.name) % COLOURS})"


def ratio_colour(ratio: float) -> str:
    """Return the colour of a ratio, on a logarithmic scale."""
    share = min(1.0, abs(log2(ratio)) / _DARKEST)
    return f"color-mix(in oklab, var(--{'worse' if ratio > 1 else 'better'}) {share:.0%}, var(--plain))"


def _head(column: Column, run: Run) -> list[str]:
    """Return a column's name above the map of costs: what it is stands below it."""
    name, role = clean(column.name), clean(shown_name(column, run).removeprefix(column.name))
    return [name, role] if role else [name]


def _mean(mean: Mean, run: Run, keys: Mapping[str, str]) -> Mapping[str, Any]:
    value = _short(mean.value or 1)
    return {
        "colour": colour(run, mean.column),
        "column": keys[mean.column.name],
        "mean": value,
        "end": max(1, value),
        "text": times(value),
        "say": f"{clean(mean.column.name)}: {number(value)} times the baseline, over {mean.count} workloads",
    }


def _workload(row: Row, run: Run, keys: Mapping[str, str]) -> Mapping[str, Any]:
    bars = [_bar(row, figure, run, keys) for figure in row.figures]
    return {
        "title": clean(row.workload.title),
        "sentence": clean(row.workload.sentence),
        "unit": row.scale.unit,
        "better": better(row.workload),
        "end": _short(max((bar["end"] for bar in bars), default=0) or 1),
        "bars": bars,
        "values": [point for figure in row.figures for point in _points(row, figure, keys)],
    }


def _bar(row: Row, figure: Figure, run: Run, keys: Mapping[str, str]) -> Mapping[str, Any]:
    bar: dict[str, Any] = {
        "column": keys[figure.column.name],
        "state": figure.state.value,
        "colour": colour(run, figure.column),
        "limit": figure.column.limit,
        "end": 0,
    }
    if figure.median is None:
        return {**bar, "text": f"{figure.state.mark} {figure.state.value}", "say": clean(figure.reason)}
    low, high = _ends(row, figure)
    return {
        **bar,
        "median": _short(figure.median.value / row.scale.factor),
        "low": low,
        "high": high,
        "end": high,
        "text": median_text(row, figure),
        "say": say(row, figure, run),
    }


def _ends(row: Row, figure: Figure) -> tuple[float, float]:
    if figure.median is None or figure.median.low is None or figure.median.high is None:
        middle = figure.median.value if figure.median is not None else 0
        return _short(middle / row.scale.factor), _short(middle / row.scale.factor)
    return _short(figure.median.low / row.scale.factor), _short(figure.median.high / row.scale.factor)


def _points(row: Row, figure: Figure, keys: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    for value, when in zip(figure.values, figure.rounds, strict=True):
        yield {
            "column": keys[figure.column.name],
            "value": _short(value / row.scale.factor),
            "round": when,
            "say": f"{clean(figure.column.name)}, round {when}: {row.scale.text(value)}",
        }


def _heat(figures: Figures, keys: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the map of ratios: a row "g…" with the means before the rows of a group."""
    order: list[str] = []
    titles: dict[str, str] = {}
    cells: list[Mapping[str, Any]] = []
    for index, (group, rows) in enumerate(figures.groups):
        header = f"g{index}"
        order.append(header)
        titles[header] = group or "workloads"
        cells += [_group_cell(header, mean, keys) for mean in means(rows, figures.run.columns)]
        for row in rows:
            order.append(row.key)
            titles[row.key] = row.workload.title
            cells += [_cell(row, figure, figures.run, keys) for figure in row.figures]
    wrapped = {
        name: {key: _lines(clean(title), width) for key, title in titles.items()}
        for name, width in (("wide", _WIDE), ("narrow", _NARROW))
    }
    return {"rows": order, "cells": cells, **wrapped}


def _lines(title: str, width: int) -> list[str]:
    return textwrap.wrap(title, width, max_lines=2, placeholder=" …", break_long_words=True) or [""]


def _group_cell(header: str, mean: Mean, keys: Mapping[str, str]) -> Mapping[str, Any]:
    name = clean(mean.column.name)
    text, short = ("", "") if mean.value is None else (number(mean.value), number(mean.value, NARROW_DIGITS))
    say = f"{name}: geometric mean of {mean.count} ratios" if text else f"{name}: no ratio"
    place = {"row": header, "column": keys[mean.column.name], "colour": "var(--paper)"}
    return {**place, "text": text, "short": short, "say": say}


def _cell(row: Row, figure: Figure, run: Run, keys: Mapping[str, str]) -> Mapping[str, Any]:
    fill = "var(--plain)"
    if figure.state is State.FAILED:
        fill = "url(#hatch)"
    elif figure.state is not State.MEASURED:
        fill = "var(--paper)"
    elif figure.cost is not None and figure.cost.known and not figure.cost.holds(1):
        fill = ratio_colour(figure.cost.value)
    text = figure.verdict()
    short: str | list[str] = figure.verdict(NARROW_DIGITS)
    if figure.column.name == run.baseline and figure.state is State.MEASURED:
        text = median_text(row, figure)
        short = text.split(" ", 1)  # on two lines
    return {
        "row": row.key,
        "column": keys[figure.column.name],
        "colour": fill,
        "text": text,
        "short": short,
        "say": say(row, figure, run),
    }


def say(row: Row, figure: Figure, run: Run) -> str:
    """Return a figure in one sentence."""
    name = clean(shown_name(figure.column, run))
    if figure.median is None:
        return ": ".join(part for part in (name, figure.state.value, clean(figure.reason)) if part)
    parts = [f"{name}: {median_text(row, figure)}", interval_text(row, figure), ratio_text(figure, run)]
    return ", ".join(part for part in parts if part)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
