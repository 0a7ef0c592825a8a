"""`pe driver test`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from plugengine.cli.app import App
from plugengine.cli.command import argument, command, option, options, switch
from plugengine.cli.files import check_place, write_whole
from plugengine.cli.parse.environment import parse_pairs
from plugengine.cli.parse.errors import CommandLineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugengine.model import Kind
    from plugengine.testing.outcome import Outcome
    from plugengine.testing.report import Report

FAILED: Final = 1
UNDECIDED: Final = 125  # not supported here, or no case was run
_MOST_PATIENCE: Final = 1000
_ERASE: Final = "\r\033[K"  # console_codes(4): erase to the end of the line
_LETTERS: Final = {"passed": ".", "failed": "F", "deviating": "d", "skipped": "s"}
_INDENT: Final = "    "


@command(
    option("--kind", metavar="KIND", help="storage, network, cgroup or namespace; needed if the name is not unique."),
    options("--report", metavar="FILE", help="Write the report: .json, .html, or a badge as .svg; may be repeated."),
    option("-k", "select", metavar="EXPRESSION", help='Only cases whose id matches, e.g. "remove and not twice".'),
    option("-j", "--jobs", metavar="N", help="How many cases run at once  [one for each processor]"),
    switch("--list", help="List the cases, and which of them apply to the driver; run none."),
    switch("--quick", help="Leave the slow cases out."),
    options("-o", "--option", metavar="NAME=VALUE", help="An option every case gives to the driver."),
    option("--directory", metavar="DIR", help="Where the cases write  [/var/tmp]"),
    option("--filesystem", metavar="TYPE", help="Make a btrfs, ext4 or xfs for the cases, in a file in the directory."),
    option("--patience", metavar="FACTOR", help="Multiply the deadlines of the cases, for a slow machine."),
    switch("-q", "--quiet", help="A character for each case in place of a line."),
    argument("name"),
)
def test(
    app: App,
    name: str,
    *,
    kind: str | None,
    report: tuple[str, ...],
    select: str | None,
    jobs: str | None,
    list: bool,  # noqa: A002 - the flag's name
    quick: bool,
    option: tuple[str, ...],
    directory: str | None,
    filesystem: str | None,
    patience: str | None,
    quiet: bool,
) -> int:
    """Run the conformance kit against an installed driver; needs root.

    Every case runs in a process and namespaces of its own, so that nothing of it stays. Exit codes: 0 none
    failed but as the driver declares, 1 a case failed, 125 the driver does not work here or could not be tested.
    """
    from plugengine.testing.loading import kind_of
    from plugengine.testing.runner import run

    chosen = kind_of(name, kind)
    if list:
        return _list(app, chosen, name, select, quick=quick)
    writers = [(path, _writer(path)) for path in report]
    show = _Lines(app, quiet=quiet)
    found = run(
        chosen,
        name,
        select=select,
        jobs=_jobs(jobs),
        options=parse_pairs("--option", option, example="size=1g"),
        quick=quick,
        directory=directory,
        filesystem=filesystem,
        patience=_patience(patience),
        progress=show.outcome,
    )
    show.end(found)
    for path, write in writers:
        write_whole("report", path, write(found))
    if found.failures:
        return FAILED
    return 0 if found.ok else UNDECIDED


class _Lines:
    """Writes what came of each case as it comes, and a summary."""

    def __init__(self, app: App, *, quiet: bool) -> None:
        self._app = app
        self._quiet = quiet
        self._live = sys.stderr.isatty()

    def outcome(self, outcome: Outcome, done: int, total: int) -> None:
        """Write one."""
        verdict = outcome.verdict.value
        if self._quiet:
            self._app.write(_LETTERS.get(verdict, "?"))
            sys.stdout.flush()
            return
        self._erase()
        why = f"  {outcome.message}" if verdict == "skipped" else ""
        self._app.line(f"{verdict:9} {outcome.duration_s:6.2f} s  {outcome.id}{why}")
        if self._live and done < total:
            sys.stderr.write(f"{done} of {total}")
            sys.stderr.flush()

    def end(self, report: Report) -> None:
        """Write the failures and the summary."""
        if self._quiet and report.outcomes:
            self._app.write("\n")
        self._erase()
        for outcome in report.failures:
            self._app.write(f"\n{describe(outcome)}")
        driver = report.driver
        self._app.write("\n" if report.failures or report.deviations else "")
        for why, outcomes in report.deviations.items():
            self._app.line(f"deviates: {why}: {', '.join(outcome.id for outcome in outcomes)}")
        self._app.line(
            f"{driver.kind} driver {driver.name} of {driver.distribution} {driver.version}: {report.summary}"
        )
        for reason in report.reasons:
            self._app.line(f"{_INDENT}{reason}")
        if report.supported:
            self._app.line(f"{report.duration_s:.1f} s on {report.host.filesystem}, Linux {report.host.kernel}")

    def _erase(self) -> None:
        if self._live:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()


def describe(outcome: Outcome) -> str:
    """Return a failed case at length."""
    lines = [f"{outcome.id}: {outcome.sentence}", *(f"{_INDENT}{reason}" for reason in outcome.reasons)]
    for title, text in (("traceback", outcome.traceback), ("log", outcome.log)):
        if text.strip():
            lines += [f"{_INDENT}{title}:", *(f"{_INDENT}  {line}" for line in text.strip().splitlines())]
    return "\n".join(lines) + "\n"


def _list(app: App, kind: Kind, name: str, select: str | None, *, quick: bool) -> int:
    from plugengine.testing.cases import cases
    from plugengine.testing.loading import Tested
    from plugengine.testing.selection import compile_selection

    tested = Tested(kind, name)
    matches = compile_selection(select) if select else None
    for case in cases(kind):
        if matches is None or matches(case.id):
            why = tested.why_left_out(case, quick=quick)
            app.line(f"{case.id}  {case.sentence}" + (f"  ({why})" if why else ""))
    return 0


def _jobs(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise CommandLineError(f"--jobs {text}: not a number above 0", hint="for example: --jobs 4")
    return int(text)


def _patience(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= _MOST_PATIENCE:
        raise CommandLineError(
            f"--patience {text}: not between 1 and {_MOST_PATIENCE}", hint="for example: --patience 4"
        )
    return factor


def _writer(path: str) -> Callable[[Report], str]:
    """Return what makes the text of a file, by the end of its name.

    Raises:
        CommandLineError: The kit writes no such files; said before the testing, not after.
        PlugengineError: It cannot be written there.
    """
    check_place("report", path)
    if path.endswith(".json"):
        return lambda report: report.to_json().decode()
    if path.endswith((".html", ".htm")):
        from plugengine.testing.page import page

        return page
    if path.endswith(".svg"):
        from plugengine.testing.badge import badge

        return badge
    raise CommandLineError(f"--report {path}: not a kind of report", hint="its name ends in .json, .html or .svg")
