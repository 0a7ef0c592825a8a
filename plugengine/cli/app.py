"""What all commands of one command line share: the roots, the engine, and the ways to speak."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from plugengine.errors import PlugengineError
from plugengine.state.names import visible

if TYPE_CHECKING:
    from plugengine.cli.progress import ProgressLine
    from plugengine.engine import Engine


class App:
    """One command line; commands get it as their first argument."""

    def __init__(self, *, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.debug: bool = False
        self._root: str | None = None
        self._run_root: str | None = None
        self._engine: Engine | None = None
        self._progress: ProgressLine | None = None

    def set_up(self, *, root: str | None, run_root: str | None, debug: bool) -> None:
        """Take over the global options."""
        self._root, self._run_root, self.debug = root, run_root, debug

    @property
    def engine(self) -> Engine:
        """The engine, opened at first use.

        Raises:
            PlugengineError: Not root, or a root is unusable.
        """
        return self.open_engine()

    def open_engine(self, *, recover: bool = True, expect_start: bool = False) -> Engine:
        """Open the engine, unless it is open; without `recover` what killed processes left stays to be looked at."""
        if self._engine is None:
            from plugengine.engine import Engine

            self._engine = Engine(
                self._root,
                self._run_root,
                environ=self.environ,
                short_lived=True,
                recover=recover,
                expect_start=expect_start,
            )
            for notice in self._engine.notices:
                self.warn(notice)
        return self._engine

    def close(self) -> None:
        """Close the engine if it was opened."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # --- speaking --------------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Write to standard output: as it is to a file or pipe, without control characters of images to a terminal."""
        sys.stdout.write(visible(text) if sys.stdout.isatty() else text)

    def line(self, text: str) -> None:
        """Write a line to standard output and let it be seen; as `write`."""
        self.end_progress()
        self.write(f"{text}\n")
        sys.stdout.flush()

    def say(self, exc: PlugengineError) -> None:
        """Say an error."""
        self.complain(exc.message, hint=exc.hint)

    def complain(self, message: str, *, hint: str | None = None) -> None:
        """Say what went wrong, and what to do about it, on standard error."""
        self.end_progress()
        hint_line = f"hint: {hint}\n" if hint else ""
        sys.stderr.write(visible(f"pe: {message}\n{hint_line}"))
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Say something the caller should know, on standard error."""
        self.complain(f"warning: {text}")

    @property
    def log(self) -> Callable[[str], None] | None:
        """Where steps are logged as they run; None without --debug."""
        return self._log if self.debug else None

    def _log(self, text: str) -> None:
        sys.stderr.write(visible(f"{text}\n"))
        sys.stderr.flush()

    @property
    def progress(self) -> Callable[[str, int, int | None], None] | None:
        """What shows on a terminal's standard error how far long work has come; None where nobody looks."""
        return self._show_progress if sys.stderr.isatty() else None

    def _show_progress(self, what: str, done: int, total: int | None) -> None:
        if self._progress is None:
            from plugengine.cli.progress import ProgressLine

            self._progress = ProgressLine(sys.stderr)
        self._progress.update(what, done, total)

    def end_progress(self) -> None:
        """Erase the line about long work, so that what is written next follows cleanly."""
        if self._progress is not None:
            self._progress.erase()
            self._progress = None

    def each(self, references: Iterable[str], action: Callable[[str], str | None]) -> int:
        """Do something for each name, going on after errors.

        Args:
            references: What the caller named.
            action: Returns the line to print, None for none.

        Returns:
            1 if one of them failed, else 0, as docker does.
        """
        code = 0
        for reference in references:
            try:
                text = action(reference)
            except PlugengineError as exc:
                self.say(exc)
                code = 1
                continue
            if text is not None:
                self.line(text)
        return code
