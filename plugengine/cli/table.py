"""Columns for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from plugengine.state.names import one_line

_GAP: Final = 3
_NARROWEST: Final = 10


def write_table(write: Callable[[str], object], headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write aligned columns under their headings, as docker does; the last one is not padded.

    Args:
        write: Takes text.
        headings: One for each column; none of them for no heading line.
        rows: Cells; a tab or newline inside becomes a blank, so that no name can forge a row.
    """
    lines = [[one_line(cell) for cell in row] for row in rows]
    if any(headings):
        lines.insert(0, list(headings))
    widths = [max(_NARROWEST, *(len(cell) + _GAP for cell in column)) for column in zip(*lines, strict=True)]
    for line in lines:
        *padded, last = line
        cells = [cell.ljust(width) for cell, width in zip(padded, widths, strict=False)]
        write(f"{''.join(cells)}{last}\n")
