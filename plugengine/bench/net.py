"""Measure network drivers: throughput, latency, connections and datagrams: `pe bench net`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from msgspec.structs import replace

from plugengine.bench import selection
from plugengine.bench.machine import Watch
from plugengine.bench.net_paths import IMAGE, Loopback, Pair
from plugengine.bench.results import HIGHER, LOWER, Cell, Column, Run, Workload
from plugengine.bench.rounds import Measurement, Progress, draw_seed, run_rounds
from plugengine.bench.workdir import run_below
from plugengine.engine import Engine
from plugengine.errors import PlugengineError
from plugengine.model import Capability, HostPath
from plugengine.plugins.drivers import open_driver
from plugengine.plugins.registry import Registry

if TYPE_CHECKING:
    from plugengine.plugins.probing import DriverStatus

LIMIT: Final = "loopback"
_NEEDS_BYTES: Final = 500_000_000
_FIRST_PORT: Final = 5201
_SECONDS: Final = 1.0
_QUICK_SECONDS: Final = 0.25
_UNCHOSEN: Final = "needs a configuration: name it with --drivers, or give it options"
_PORT: Final = "port-"
_DIRECT_GROUP: Final = "between two containers"
_PORT_GROUP: Final = "through a published port"
_KINDS: Final = (
    ("stream", "one stream", "send over one TCP connection", "B/s", HIGHER),
    ("streams", "four streams", "send over four TCP connections at once", "B/s", HIGHER),
    ("latency", "round trip", "send 64 bytes over TCP and get them back; the median of a second's", "s", LOWER),
    ("latency-p99", "round trip, slow", "the same; all but one in a hundred take less", "s", LOWER),
    ("connect", "connections", "make a TCP connection, send a byte, see it closed; one after the other", "1/s", HIGHER),
    ("packets", "datagrams", "send UDP datagrams of 64 bytes without a pause; those that arrive", "1/s", HIGHER),
)
WORKLOADS: Final = tuple(
    Workload(
        name=f"{prefix}{name}",
        title=title,
        sentence=sentence,
        group=group,
        unit=unit,
        better=better,
        tool=f"Python {platform.python_version()} at both ends",
    )
    for prefix, group in (("", _DIRECT_GROUP), (_PORT, _PORT_GROUP))
    for name, title, sentence, unit, better in _KINDS
)
NAMES: Final = tuple(each.name for each in WORKLOADS)


class NetOptions(Struct, frozen=True, kw_only=True):
    """What to measure, and how."""

    drivers: tuple[str, ...] = ()  # none: all that are installed
    workloads: tuple[str, ...] = ()  # none: all there are
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by driver
    quick: bool = False  # a quarter of a second in place of a second for each value
    rounds: int = 10
    warmup: int = 1
    budget_s: float | None = None
    seed: int = 0  # 0: one is drawn
    baseline: str = ""  # a column; empty: the default driver if it takes part
    directory: str | None = None  # None: /var/tmp
    command: tuple[str, ...] = ()  # how to reproduce it


def measure(
    options: NetOptions, *, progress: Progress, environ: Mapping[str, str] = os.environ, registry: Registry
) -> Run:
    """Measure, in namespaces of the run's own, and leave nothing behind.

    Raises:
        NotFoundError: A driver or workload that does not exist; the hint has the near miss.
        NotSupportedError: Not root.
        NoSpaceError: The directory has less space than the run needs.
        KeyboardInterrupt: Before there was a result; later the run is partial.
    """
    names = selection.check_drivers(registry, "network", options.drivers)
    selection.check_names("workload", options.workloads, NAMES)
    if options.baseline:
        selection.check_names("baseline", [options.baseline], (*names, LIMIT))
    selection.check_options(registry, ["network"], options.options)
    return run_below(
        options.directory,
        _NEEDS_BYTES,
        lambda work, report: _Session(options, names, environ, report).run(work),
        progress=progress,
    )


class _Session:
    """One run, inside its namespaces."""

    def __init__(self, options: NetOptions, names: Sequence[str], environ: Mapping[str, str], report: Progress) -> None:
        self._options = options
        self._names = names
        self._environ = environ
        self._report = report
        self._missing: list[Column] = []  # which have a reason
        self._failed: dict[str, str] = {}  # column to why its containers could not be made or reached
        self._failed_columns: list[Column] = []

    def run(self, work: HostPath) -> Run:
        """Make the containers, measure, describe."""
        begun, started, watch = time.monotonic(), datetime.now(UTC), Watch(work)
        with ExitStack() as undo:
            self._report(0, 1, "making the image")
            engine = undo.enter_context(Engine(f"{work}/root", f"{work}/run", environ=self._environ))
            engine.site.images.resolve(IMAGE)
            known = selection.statuses(engine, "network")
            limit = Loopback(Column(name=LIMIT, limit=True), _FIRST_PORT)
            undo.callback(limit.close)
            limit.check()
            pairs: list[Pair] = []
            for port, name in enumerate(self._names, _FIRST_PORT + 1):
                self._report(0, 1, f"trying {name}")
                pair = self._pair(engine, known[name], port, undo)
                pairs += [pair] if pair else []
            seed = self._options.seed or draw_seed()
            cells, partial_run = run_rounds(
                list(self._measurements([*pairs, limit])),
                rounds=self._options.rounds,
                warmup=self._options.warmup,
                seed=seed,
                progress=self._report,
                budget_s=self._options.budget_s,
            )
            machine = watch.machine()
        measured = [pair.column for pair in pairs]
        default = next((each.name for each in known.values() if each.default), "")
        return Run(
            kind="net",
            started=started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - begun,
            seed=seed,
            rounds=self._options.rounds,
            warmup=self._options.warmup,
            baseline=self._baseline([each.name for each in measured], default),
            command=self._options.command,
            place="container",
            machine=machine,
            columns=(*measured, *self._failed_columns, limit.column, *self._missing),
            workloads=self._workloads(),
            cells=(*cells, *self._failures(pairs)),
            image=IMAGE,
            partial=partial_run,
        )

    def _workloads(self) -> tuple[Workload, ...]:
        return tuple(each for each in WORKLOADS if each.name in (self._options.workloads or NAMES))

    def _baseline(self, there: Sequence[str], default: str) -> str:
        wanted = self._options.baseline or default
        return wanted if wanted in (*there, LIMIT) else (*there, LIMIT)[0]

    def _pair(self, engine: Engine, status: DriverStatus, port: int, undo: ExitStack) -> Pair | None:
        """Return the containers of a driver; None if it cannot be measured, which is noted."""
        column = selection.column(engine, status, self._options.options)
        if column.reason:
            self._missing.append(column)
            return None
        if self._waits_for_options(status):
            self._missing.append(replace(column, reason=_UNCHOSEN))
            return None
        claimed = open_driver(engine.site.registry, "network", status.name).info.capabilities
        try:
            network = selection.network_name(engine, status.name, self._options.options)
            pair = Pair(
                column,
                engine,
                network,
                port,
                shares_host=Capability.HOST_NAMESPACE in claimed,
                publishes=Capability.PORTS in claimed,
            )
            undo.callback(pair.close)
            if not pair.has_address:
                self._missing.append(replace(column, reason="its containers have no address"))
                return None
            pair.check()
        except (PlugengineError, OSError) as exc:
            hint = exc.hint if isinstance(exc, PlugengineError) and exc.hint else ""
            self._failed[column.name] = f"{exc}{f' ({hint})' if hint else ''}"
            self._failed_columns.append(column)
            return None
        return pair

    def _waits_for_options(self, status: DriverStatus) -> bool:
        """Tell whether it is a driver that does nothing useful by itself, and nobody has asked for it."""
        return status.rank < 0 and status.name not in (*self._options.drivers, *self._options.options)

    def _measurements(self, lines: Sequence[Pair | Loopback]) -> Iterator[Measurement]:
        seconds = _QUICK_SECONDS if self._options.quick else _SECONDS
        for workload in self._workloads():
            for line in lines:
                take = _take(line, workload.name, seconds)
                if take is not None:
                    yield Measurement(workload=workload.name, column=line.column.name, take=take)

    def _failures(self, pairs: Sequence[Pair]) -> Iterator[Cell]:
        for workload in self._workloads():
            for name, why in self._failed.items():
                yield Cell(workload=workload.name, column=name, error=f"before the first round: {why}")
            for pair in pairs:
                if pair.no_ports and workload.name.startswith(_PORT):
                    yield Cell(workload=workload.name, column=pair.column.name, error=pair.no_ports)


def _take(line: Pair | Loopback, workload: str, seconds: float) -> Callable[[], float] | None:
    if not workload.startswith(_PORT):
        return partial(line.direct, workload, seconds)
    if isinstance(line, Pair) and line.has_ports:
        return partial(line.published, workload.removeprefix(_PORT), seconds)
    return None
