"""`pe bench show` and `pe bench compare`, and what all of `pe bench` does with results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, switch
from plugengine.cli.files import check_place, write_whole
from plugengine.cli.parse.errors import FlagError
from plugengine.errors import NotFoundError, PlugengineError

if TYPE_CHECKING:
    from plugengine.bench.results import Run

FAILED: Final = 1
INTERRUPTED: Final = 130  # 128 + SIGINT
_THRESHOLD: Final = "10%"
_WIDTH: Final = 120  # where there is no terminal to ask


@command(
    option("--html", metavar="FILE", help="Write the page to look at."),
    argument("file"),
)
def show(app: App, file: str, *, html: str | None) -> None:
    """Show the results of an earlier run again."""
    if html:
        check_place("page", html)
    run = read(file)
    _write_table(app, run)
    if html:
        _write_page(html, run)


@command(
    option("--threshold", metavar="PERCENT", help="How much worse is too much  [10%]"),
    switch("--all", help="List also what does not differ."),
    argument("before"),
    argument("after"),
)
def compare(app: App, before: str, after: str, *, threshold: str | None, all: bool) -> int:  # noqa: A002 - the flag's name
    """Compare two runs of one kind: what changed from the first to the second, beyond the noise of both.

    Exit codes: 0; 1 when something got worse by more than the threshold, or fails now.
    """
    from plugengine.bench.comparing import compare as compare_runs
    from plugengine.bench.tables import comparison_lines

    limit = parse_percent("--threshold", threshold or _THRESHOLD)
    found = compare_runs(read(before), read(after))
    for line in comparison_lines(found, limit, everything=all):
        app.line(line)
    return FAILED if found.past(limit) else 0


def conclude(app: App, run: Run, *, json: str | None, html: str | None) -> int:
    """Write the results wherever they are wanted; return the exit code."""
    from plugengine.bench.results import to_json

    if json:
        write_whole("results", json, to_json(run))
    _write_table(app, run)
    if html:
        _write_page(html, run)
    if run.partial:
        return INTERRUPTED
    return FAILED if run.failures else 0


def read(path: str) -> Run:
    """Read results from a file. Raises: PlugengineError."""
    from plugengine.bench.results import from_json

    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError as exc:
        raise NotFoundError(f"results {path}: no such file") from exc
    except OSError as exc:
        raise PlugengineError(f"results {path}: {str(exc.strerror).lower()}") from exc
    return from_json(data, path)


def parse_percent(flag: str, text: str) -> float:
    """Return 0.1 for "10%" or "10". Raises: FlagError."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise FlagError(flag, text, "not a percentage", example=_THRESHOLD)
    return value / 100


def _write_table(app: App, run: Run) -> None:
    from shutil import get_terminal_size

    from plugengine.bench.tables import write_run

    write_run(app.write, run, width=get_terminal_size((_WIDTH, 0)).columns)


def _write_page(path: str, run: Run) -> None:
    from plugengine.bench.page import page

    write_whole("page", path, page(run))
