"""A badge for a driver's README: one small SVG picture with what a run found."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from plugengine.testing.outcome import Verdict

if TYPE_CHECKING:
    from plugengine.testing.report import Report

LABEL: Final = "plugengine conformance"
# White on each of them has a contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3).
GOOD: Final = "#1a7f37"
BAD: Final = "#c5221f"
UNKNOWN: Final = "#57606a"
PARTLY: Final = "#9a6700"
_LABEL_COLOUR: Final = "#3d444d"
# Pixels, of Verdana and its like at 11 pixels; what is left of the difference is spread over the letters.
_CHARACTER: Final = 7.0
_NARROW_CHARACTER: Final = 4.2
_NARROW: Final = frozenset("fijlrt .,1")
_PADDING: Final = 12
_HEIGHT: Final = 20

_TEMPLATE: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<clipPath id="pe-badge"><rect width="{width}" height="{height}" rx="4"/></clipPath>
<g clip-path="url(#pe-badge)">
<rect width="{split}" height="{height}" fill="{label_colour}"/>
<rect x="{split}" width="{rest}" height="{height}" fill="{colour}"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11" text-anchor="middle">
<text x="{label_at}" y="14" textLength="{label_length}" lengthAdjust="spacingAndGlyphs">{label}</text>
<text x="{value_at}" y="14" textLength="{value_length}" lengthAdjust="spacingAndGlyphs">{value}</text>
</g>
</svg>
"""


def badge(report: Report) -> str:
    """Return the picture, as the text of an SVG file."""
    value, colour = words(report)
    split, rest = _width(LABEL) + _PADDING, _width(value) + _PADDING
    return _TEMPLATE.format(
        width=split + rest,
        height=_HEIGHT,
        split=split,
        rest=rest,
        label=escape(LABEL),
        value=escape(value),
        label_colour=_LABEL_COLOUR,
        colour=colour,
        label_at=split / 2,
        value_at=split + rest / 2,
        label_length=split - _PADDING,
        value_length=rest - _PADDING,
    )


def _width(text: str) -> int:
    return round(sum(_NARROW_CHARACTER if letter in _NARROW else _CHARACTER for letter in text))


def words(report: Report) -> tuple[str, str]:
    """Return what the badge says, and its colour."""
    counts = report.counts
    if not report.supported:
        return "not supported here", UNKNOWN
    if counts[Verdict.FAILED]:
        return f"{counts[Verdict.FAILED]} of {counts[Verdict.FAILED] + counts[Verdict.PASSED]} failed", BAD
    if not counts[Verdict.PASSED]:
        return "no case was run", UNKNOWN
    if counts[Verdict.DEVIATING]:
        return f"{counts[Verdict.PASSED]} passed, {counts[Verdict.DEVIATING]} deviating", PARTLY
    return f"{counts[Verdict.PASSED]} passed", GOOD
