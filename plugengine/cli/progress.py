"""A line on the terminal that says how far long work has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

from plugengine.cli.human import decimal_size, duration, shorten
from plugengine.state.names import one_line

_INTERVAL_S: Final = 0.1
_WIDTH: Final = 30
_WORDS: Final = 30
_ERASE: Final = "\r\033[K"  # console_codes(4): erase to the end of the line


class ProgressLine:
    """Rewrites one line; the last word leaves it erased, so that output follows cleanly."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._shown_at = 0.0
        self._shown = False

    def update(self, what: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are done; the total may not be known."""
        finished = bool(total) and done >= (total or 0)
        now = time.monotonic()
        if not finished and now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        self._shown = not finished
        self._output.write(_ERASE if finished else f"{_ERASE}{shorten(one_line(what), _WORDS)} {_bar(done, total)}")
        self._output.flush()

    def erase(self) -> None:
        """Erase what is still shown: work of unknown size does not say when it is done."""
        if self._shown:
            self._shown = False
            self._output.write(_ERASE)
            self._output.flush()


class StepsLine:
    """Rewrites one line about steps that take about the same time each, with how long the rest will take.

    Args:
        output: A terminal.
        clock: Returns seconds.
    """

    def __init__(self, output: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._begun: tuple[float, int] | None = None  # when, and with which total
        self._shown_at: float | None = None

    def update(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` steps are done, and what comes now; the last call erases the line."""
        now = self._clock()
        if self._begun is None or self._begun[1] != total:
            self._begun = (now, total)
        if done < total and self._shown_at is not None and now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        text = f"{_filled(done, total)} {done} of {total}{self._rest(done, total, now)}  {shorten(what, _WORDS)}"
        self._output.write(_ERASE if done >= total else f"{_ERASE}{one_line(text)}")
        self._output.flush()

    def _rest(self, done: int, total: int, now: float) -> str:
        if not done or self._begun is None:
            return ""
        seconds = (now - self._begun[0]) / done * (total - done)
        return f", {duration(seconds).lower()} left"


def _bar(done: int, total: int | None) -> str:
    if not total:
        return decimal_size(done)
    return f"{_filled(done, total)} {decimal_size(done)} of {decimal_size(total)}"


def _filled(done: int, total: int) -> str:
    filled = _WIDTH * done // total
    return f"[{'=' * filled}{' ' * (_WIDTH - filled)}]"
