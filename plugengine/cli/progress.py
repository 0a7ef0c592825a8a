"""A line on the terminal that says how far long work has come."""

from __future__ import annotations

import time
from typing import Final, TextIO

from plugengine.cli.humane import decimal_size

_INTERVAL_S: Final = 0.1
_WIDTH: Final = 30
_ERASE: Final = "\r\033[K"  # console_codes(4): erase to the end of the line


class ProgressLine:
    """Rewrites one line; the last word leaves it erased, so that output follows cleanly."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._shown_at = 0.0

    def update(self, what: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are done; the total may not be known."""
        finished = bool(total) and done >= (total or 0)
        now = time.monotonic()
        if not finished and now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        self._output.write(_ERASE if finished else f"{_ERASE}{what} {_bar(done, total)}")
        self._output.flush()


def _bar(done: int, total: int | None) -> str:
    if not total:
        return decimal_size(done)
    filled = _WIDTH * done // total
    return f"[{'=' * filled}{' ' * (_WIDTH - filled)}] {decimal_size(done)} of {decimal_size(total)}"
