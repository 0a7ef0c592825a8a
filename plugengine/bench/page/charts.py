"""The charts as Vega-Lite specifications without data; the page's script adds that. See vega.github.io/vega-lite.

Colours are CSS variables, which the browser resolves in the SVG that Vega draws: so a page changes between light, dark
and paper by its style sheet alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

Spec: TypeAlias = Mapping[str, Any]

FONT: Final = "system-ui, sans-serif"
FONT_SIZE: Final = 12
LINE: Final = 13
ROUNDS_HEIGHT: Final = 220
# One fewer than there are colours, so that with many columns a colour that comes again has another shape.
SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

_INK: Final = "var(--ink)"
_QUIET: Final = "var(--quiet)"
_HATCH: Final = "url(#hatch)"
# Vega puts the first of two lines where the only one would be.
_UP: Final = f"isArray(datum.text) ? {-LINE / 2} : 0"
_TEXT: Final = {"field": "text", "type": "nominal"}
_CONFIG: Final[Spec] = {
    "aria": False,  # the element around a chart says in words what it shows
    "background": None,
    "font": FONT,
    "padding": 0,
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK,
        "labelFontSize": FONT_SIZE,
        "titleColor": _QUIET,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
    },
    "legend": {
        "labelColor": _INK,
        "labelFontSize": FONT_SIZE,
        "labelLimit": 160,
        "title": None,
        "orient": "bottom",
        "symbolSize": 70,
        "symbolStrokeWidth": 2,
    },
    "text": {"fill": _INK, "fontSize": FONT_SIZE},
}
# `names`, `heads` and `labels` are parameters that the script sets: what a reader sees in place of a key.
_NAMES_AXIS: Final[Spec] = {"labelExpr": "names[datum.value]", "title": None, "labelLimit": 128, "grid": False}
_COLOUR: Final[Spec] = {"field": "colour", "type": "nominal", "scale": None}


def specs() -> Mapping[str, Spec]:
    """Return every chart by the name under which the script asks for it."""
    return {"bars": _bars(), "means": _means(), "heat": _heat(), "strip": _strip(), "rounds": _rounds()}


def _chart(**rest: Any) -> Spec:
    # The script sets the height in pixels: given as a step, Vega-Lite warns that it cannot fit both ways.
    return {
        "width": "container",
        "config": _CONFIG,
        **rest,
    }


def _column_axis(**rest: Any) -> Spec:
    return {"field": "column", "type": "nominal", "sort": None, "axis": {**_NAMES_AXIS, **rest}}


def _value_axis(field: str) -> Spec:
    axis = {"title": None, "tickCount": 4, "labelBound": True, "labelOverlap": "greedy", "labelSeparation": 8}
    return {"field": field, "type": "quantitative", "axis": axis}


def _only(state: str) -> list[Spec]:
    return [{"filter": {"field": "state", "equal": state}}]


def _hatched() -> list[Spec]:
    """Return layers for rows without a value: its state in words, and a hatch for a failure."""
    missing = [{"filter": {"not": {"field": "state", "equal": "measured"}}}]
    rest = {"x": {"value": 64}, "x2": {"value": "width"}}  # beside the words
    return [
        {
            "transform": _only("failed"),
            "mark": {"type": "bar", "fill": _HATCH, "height": {"band": 0.7}},
            "encoding": rest,
        },
        {
            "transform": missing,
            "mark": {"type": "text", "align": "left", "dx": 6, "fill": _QUIET},
            "encoding": {"x": {"value": 0}, "text": _TEXT},
        },
    ]


def _bars() -> Spec:
    """Return the chart of one workload: a bar for each column, its interval, its value in words, and the limit."""
    measured = _only("measured")
    value = _value_axis("median")
    return _chart(
        encoding={"y": _column_axis()},
        layer=[
            {
                "transform": measured,
                "mark": {"type": "bar", "height": {"band": 0.7}, "cornerRadiusEnd": 2, "cursor": "pointer"},
                "encoding": {"x": value, "fill": _COLOUR, "tooltip": {"field": "say"}},
            },
            {
                "transform": [{"filter": "datum.limit && datum.state === 'measured'"}],
                "mark": {"type": "rule", "strokeDash": [4, 3], "stroke": _QUIET},
                "encoding": {"x": value, "y": None},
            },
            {
                "transform": measured,
                "mark": {"type": "errorbar", "ticks": {"size": 8, "color": _INK}, "rule": {"color": _INK}},
                "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}},
            },
            {
                "transform": measured,
                "mark": {"type": "text", "align": "left", "dx": 7},
                "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": _TEXT},
            },
            *_hatched(),
        ],
    )


def _means() -> Spec:
    """Return the chart of the geometric means: a line from 1, the baseline, to each, on a logarithmic scale."""
    value = {
        "field": "mean",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "nice": False},
        "axis": {
            "title": None,
            "format": "~r",
            "labelBound": True,
            "labelOverlap": "greedy",
            "labelSeparation": 8,
            "tickCount": 5,
        },
    }
    return _chart(
        encoding={"y": _column_axis()},
        layer=[
            {"mark": {"type": "rule", "stroke": _QUIET}, "encoding": {"x": {"datum": 1}, "y": None}},
            {
                "mark": {"type": "rule", "strokeWidth": 3},
                "encoding": {"x": value, "x2": {"datum": 1}, "stroke": _COLOUR},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                "encoding": {"x": value, "fill": _COLOUR, "tooltip": {"field": "say"}},
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 10},
                "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": _TEXT},
            },
        ],
    )


def _heat() -> Spec:
    """Return the map of ratios: a row for each workload, below a row for its group, which has the means."""
    upwards = {"condition": {"test": "length(labels[datum.value]) > 1", "value": -LINE / 2}, "value": 0}
    bold = {"condition": {"test": "datum.value[0] === 'g'", "value": "bold"}, "value": "normal"}
    rows = {
        "field": "row",
        "type": "nominal",
        "axis": {
            "labelExpr": "labels[datum.value]",
            "title": None,
            "labelLimit": 0,
            "labelFontWeight": bold,
            "labelOffset": upwards,
            "labelLineHeight": LINE,
        },
        "scale": {"paddingInner": 0},
    }
    columns = _column_axis(orient="top", labelAngle=0, labelExpr="heads[datum.value]", labelLineHeight=LINE)
    return _chart(
        encoding={"y": rows, "x": columns},
        layer=[
            {
                "mark": {"type": "rect", "stroke": "var(--paper)", "strokeWidth": 2, "cursor": "pointer"},
                "encoding": {"fill": _COLOUR, "tooltip": {"field": "say"}},
            },
            {
                "mark": {"type": "text", "cursor": "pointer", "lineHeight": LINE, "dy": {"expr": _UP}},
                "encoding": {"text": _TEXT, "tooltip": {"field": "say"}},
            },
        ],
    )


def _strip() -> Spec:
    """Return every value of one workload: a row for each column, its rounds from top to bottom within."""
    value = {**_value_axis("value"), "scale": {"zero": False, "nice": True}}
    return _chart(
        encoding={"y": _column_axis(grid=True)},
        layer=[
            {
                "mark": {"type": "rule", "strokeWidth": 9, "strokeCap": "round", "opacity": 0.35},
                "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "stroke": _COLOUR},
            },
            {
                "mark": {"type": "tick", "thickness": 3, "size": 26, "opacity": 1},
                "encoding": {"x": {"field": "median", "type": "quantitative"}, "fill": _COLOUR},
            },
            {
                "mark": {"type": "point", "size": 40, "strokeWidth": 1.5, "opacity": 0.9},
                "encoding": {
                    "x": value,
                    "yOffset": {"field": "round", "type": "ordinal"},
                    "stroke": _COLOUR,
                    "tooltip": {"field": "say"},
                },
            },
        ],
    )


def _rounds() -> Spec:
    """Return every value of one workload in the order of the rounds; columns differ by colour and shape."""
    legend = {"labelExpr": "names[datum.value]"}
    kinds = {"field": "column", "type": "nominal", "legend": legend}
    return _chart(
        height=ROUNDS_HEIGHT,
        encoding={
            "x": {"field": "round", "type": "ordinal", "axis": {"title": "round", "labelAngle": 0, "grid": False}},
            "y": {**_value_axis("value"), "scale": {"zero": False}},
            "color": kinds,
            "shape": kinds,
        },
        layer=[
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"shape": None}},
            {
                "mark": {"type": "point", "size": 45, "strokeWidth": 1.5, "opacity": 1},
                "encoding": {"tooltip": {"field": "say"}},
            },
        ],
    )
