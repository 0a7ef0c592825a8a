"""`pe bench storage`, `pe bench start` and `pe bench net`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from plugengine.cli.app import App
from plugengine.cli.command import command, option, options, switch
from plugengine.cli.commands.bench_results import conclude
from plugengine.cli.files import check_place
from plugengine.cli.parse.errors import CommandLineError
from plugengine.cli.parse.quantities import parse_int
from plugengine.errors import UsageError

if TYPE_CHECKING:
    from plugengine.bench.results import Workload
    from plugengine.bench.rounds import Progress

_MOST_ROUNDS: Final = 10_000
_MOST_SEED: Final = 2**32 - 1
_OUTPUTS: Final = ("json", "html", "seed")  # not what makes the figures, or added by itself
_QUICK_ROUNDS: Final = 3
_ROUNDS: Final = 10
_QUICK_BUDGET_S: Final = 150.0
_BUDGET_S: Final = 1500.0


def _common() -> tuple[click.Option, ...]:
    return (
        option("--workloads", metavar="NAME,NAME", help="Only these; --list shows them  [all]"),
        switch("--list", help="List the workloads; run none."),
        options("--option", metavar="DRIVER:NAME=VALUE", help="An option of a driver."),
        option(
            "--rounds", metavar="N", help="How often each is measured, for N values; as many as time allows without."
        ),
        option("--warmup", metavar="N", help="Rounds before these, which do not count  [1]"),
        option("--baseline", metavar="COLUMN", help="What the others are compared with."),
        switch("--quick", help="At most about three minutes: smaller work, fewer rounds."),
        option("--seed", metavar="N", help="Of the random order, to repeat one; drawn and recorded without."),
        option("--directory", metavar="DIR", help="Where is measured: on the filesystem of this one  [/var/tmp]"),
        option("--json", metavar="FILE", help="Write the results, with every value."),
        option("--html", metavar="FILE", help="Write a page to look at."),
    )


def _filesystem() -> click.Option:
    return option(
        "--filesystem", metavar="TYPE", help="Make a btrfs, ext4 or xfs for the run, in a file in the directory."
    )


_END: Final = """
    Everything happens in namespaces and roots of the run's own, and nothing stays. Ctrl-C ends a run early: what was
    measured until then is shown, and written with a mark. Exit codes: 0; 1 when a workload failed; 130 after Ctrl-C.
    """


@command(
    option("--drivers", metavar="NAME,NAME", help="Storage drivers, and plain for a plain directory  [all installed]"),
    *_common(),
    option("--image", metavar="REF", help="An image with python3 inside  [host:python]"),
    switch("--direct", help="On the drivers' mounts, without containers."),
    _filesystem(),
)
def storage(app: App, **values: Any) -> int | None:
    """Measure storage drivers against each other, and against a plain directory; needs root."""
    from plugengine.bench import catalog
    from plugengine.bench.storage import DEFAULT_IMAGE, StorageOptions, measure
    from plugengine.bench.workload import Size
    from plugengine.plugins.registry import Registry

    registry = Registry()
    size = Size.QUICK if values["quick"] else Size.FULL
    if values["list"]:
        offered = catalog.offered(registry).items()
        return _list(app, (catalog.load(name, target).row(size) for name, target in offered))
    given = _Given(values)
    found = StorageOptions(
        drivers=given.names("drivers"),
        image=values["image"] or DEFAULT_IMAGE,
        size=size,
        rounds=given.rounds,
        warmup=given.warmup,
        direct=values["direct"],
        filesystem=values["filesystem"],
        **given.common,
    )
    with _progress() as progress:
        run = measure(found, progress=progress, environ=app.environ, registry=registry)
    return conclude(app, run, json=values["json"], html=values["html"])


@command(
    option("--storage", metavar="NAME,NAME", help="Storage drivers  [all installed]"),
    option("--network", metavar="NAME,NAME", help="Network drivers  [the default one, and none]"),
    switch("--peers", help="Measure docker and podman too, where they are installed."),
    *_common(),
    option("--image", metavar="REF", help="An image with sh, sleep, test, true and echo inside  [host:base]"),
    _filesystem(),
)
def start(app: App, **values: Any) -> int | None:
    """Measure how quickly containers start, run a command and stop; needs root.

    For combinations of storage and network drivers, with the command line and as a library.
    """
    from plugengine.bench.start import DEFAULT_IMAGE, WORKLOADS, StartOptions, measure
    from plugengine.plugins.registry import Registry

    if values["list"]:
        return _list(app, WORKLOADS)
    given = _Given(values)
    found = StartOptions(
        storage=given.names("storage"),
        network=given.names("network"),
        peers=values["peers"],
        image=values["image"] or DEFAULT_IMAGE,
        filesystem=values["filesystem"],
        **given.timing,
        **given.common,
    )
    with _progress() as progress:
        run = measure(found, progress=progress, environ=app.environ, registry=Registry())
    return conclude(app, run, json=values["json"], html=values["html"])


@command(
    option("--drivers", metavar="NAME,NAME", help="Network drivers  [all installed]"),
    *_common(),
)
def net(app: App, **values: Any) -> int | None:
    """Measure network drivers: between two containers, and through a published port; needs root."""
    from plugengine.bench.net import WORKLOADS, NetOptions, measure
    from plugengine.plugins.registry import Registry

    if values["list"]:
        return _list(app, WORKLOADS)
    given = _Given(values)
    found = NetOptions(drivers=given.names("drivers"), quick=values["quick"], **given.timing, **given.common)
    with _progress() as progress:
        run = measure(found, progress=progress, environ=app.environ, registry=Registry())
    return conclude(app, run, json=values["json"], html=values["html"])


class _Given:
    """The values of flags that all of them have, checked.

    Raises:
        CommandLineError, PlugengineError: One of them makes no sense; said before the run.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        from plugengine.bench.rounds import draw_seed
        from plugengine.bench.selection import parse_options

        self._values = values
        for name in ("json", "html"):
            if values[name]:
                check_place("results", values[name])
        try:
            parsed = parse_options(values["option"])
        except UsageError as exc:
            raise CommandLineError(exc.message, hint=exc.hint) from exc
        self.rounds = self._number("rounds", 1, _MOST_ROUNDS)
        self.warmup = self._number("warmup", 0, _MOST_ROUNDS)
        seed = self._number("seed", 1, _MOST_SEED) or draw_seed()
        self.common: Mapping[str, Any] = {
            "workloads": self.names("workloads"),
            "options": parsed,
            "seed": seed,
            "baseline": values["baseline"] or "",
            "directory": values["directory"],
            "command": (*_command_line(), "--seed", str(seed)),
        }

    @property
    def timing(self) -> Mapping[str, Any]:
        """Return rounds, warm-up and budget; without a number of rounds the time is what limits them."""
        quick = bool(self._values["quick"])
        return {
            "rounds": self.rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
            "warmup": 1 if self.warmup is None else self.warmup,
            "budget_s": None if self.rounds else (_QUICK_BUDGET_S if quick else _BUDGET_S),
        }

    def names(self, flag: str) -> tuple[str, ...]:
        """Return the words of a list."""
        text = self._values[flag]
        return tuple(word for word in (text or "").replace(",", " ").split())

    def _number(self, flag: str, low: int, high: int) -> int | None:
        text = self._values[flag]
        return None if text is None else parse_int(f"--{flag}", text, low=low, high=high)


def _command_line() -> tuple[str, ...]:
    """Return the command that is running, without what does not change the figures."""
    ctx = click.get_current_context()
    words = ["pe", *ctx.command_path.split()[1:]]
    for param in ctx.command.params:
        value = ctx.params.get(str(param.name))
        if not isinstance(param, click.Option) or not value or param.name in _OUTPUTS:
            continue
        long = max(param.opts, key=len)
        if param.is_flag:
            words.append(long)
        else:
            words += [word for each in ([value] if isinstance(value, str) else value) for word in (long, str(each))]
    return tuple(words)


def _list(app: App, workloads: Iterable[Workload]) -> int:
    from plugengine.cli.table import write_table

    rows = [(each.name, each.group, "cold" if each.cold else "", each.sentence) for each in workloads]
    write_table(app.write, ("NAME", "GROUP", "", "WHAT IS DONE"), rows)
    return 0


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on the terminal while a run lasts, erased however it ends."""
    if not sys.stderr.isatty():
        yield lambda _done, _total, _what: None
        return
    from plugengine.cli.progress import StepsLine

    line = StepsLine(sys.stderr)
    try:
        yield line.update
    finally:
        line.update(1, 1, "")


for _each in (storage, start, net):
    _each.help = f"{(_each.help or '').rstrip()}\n{_END}"
