"""Measure storage drivers against each other: `pe bench storage`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Final

from msgspec import Struct, field

from plugengine.bench import catalog, selection
from plugengine.bench.fixture import Stand, Surroundings
from plugengine.bench.journal import WARNING, lacks_journal
from plugengine.bench.machine import Watch
from plugengine.bench.results import Cell, Column, Run
from plugengine.bench.results import Workload as Row
from plugengine.bench.rounds import Measurement, Progress, draw_seed, run_rounds
from plugengine.bench.shared_setup import set_up
from plugengine.bench.workdir import on_filesystem, run_below
from plugengine.bench.workload import Size, Workload
from plugengine.engine import Engine
from plugengine.errors import NotSupportedError
from plugengine.model import HostPath
from plugengine.plugins.drivers import StorageDriver, open_driver
from plugengine.plugins.registry import Registry

PLAIN: Final = "plain"  # the column of the plain directory
DEFAULT_IMAGE: Final = "host:python"
_GIB: Final = 1 << 30


class Effort(Struct, frozen=True, kw_only=True):
    """How long a run may take, and what it writes."""

    rounds: int
    warmup: int
    budget_s: float
    image_bytes: int  # with what is worked on while it is made
    column_bytes: int


EFFORTS: Final[Mapping[Size, Effort]] = {
    Size.FULL: Effort(rounds=12, warmup=1, budget_s=1_620, image_bytes=_GIB, column_bytes=_GIB // 2),
    Size.QUICK: Effort(rounds=3, warmup=1, budget_s=165, image_bytes=_GIB // 2, column_bytes=_GIB // 2),
    Size.TINY: Effort(rounds=1, warmup=0, budget_s=600, image_bytes=_GIB // 4, column_bytes=_GIB // 4),
}


class StorageOptions(Struct, frozen=True, kw_only=True):
    """What to measure, and how."""

    drivers: tuple[str, ...] = ()  # none: all that are installed
    workloads: tuple[str, ...] = ()  # none: all there are
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by driver
    image: str = DEFAULT_IMAGE  # with python3 inside
    size: Size = Size.FULL
    rounds: int | None = None  # None: as many as the size says
    warmup: int | None = None
    seed: int = 0
    baseline: str = ""  # a driver, or "plain"; empty: the default driver if it takes part, else the plain directory
    direct: bool = False  # on the drivers' mounts, without containers
    directory: str | None = None  # None: /var/tmp
    filesystem: str | None = None  # made for the run: btrfs, ext4 or xfs; None: that of the directory
    command: tuple[str, ...] = ()  # how to reproduce it


def measure(
    options: StorageOptions, *, progress: Progress, environ: Mapping[str, str] = os.environ, registry: Registry
) -> Run:
    """Measure, in namespaces of the run's own, and leave nothing behind.

    Raises:
        NotFoundError: A driver or workload that does not exist; the hint has the near miss.
        NotSupportedError: Not root, or the filesystem cannot be made.
        NoSpaceError: The directory has less space than the run needs.
        KeyboardInterrupt: Before there was a result; later the run is partial.
    """
    drivers = _drivers(registry, options.drivers)
    targets = catalog.offered(registry)
    names = selection.check_names("workload", options.workloads, tuple(targets))
    if options.baseline:
        selection.check_names("baseline", [options.baseline], (*drivers, PLAIN))
    selection.check_options(registry, ["storage"], options.options)
    workloads = [catalog.load(name, targets[name]) for name in names]
    effort = EFFORTS[options.size]
    needs = effort.image_bytes + effort.column_bytes * (len(drivers) + 1)

    def act(work: HostPath, report: Progress) -> Run:
        return _Session(options, drivers, workloads, environ, report).run(work)

    return run_below(options.directory, needs, act, progress=progress)


def _drivers(registry: Registry, given: Sequence[str]) -> tuple[str, ...]:
    """Return the drivers asked for; the plain directory always takes part, and can be the only one."""
    names = [name for name in given if name != PLAIN]
    return selection.check_drivers(registry, "storage", names) if names or not given else ()


class _Session:
    """One run, inside its namespaces."""

    def __init__(
        self,
        options: StorageOptions,
        drivers: Sequence[str],
        workloads: Sequence[Workload],
        environ: Mapping[str, str],
        report: Progress,
    ) -> None:
        self._options = options
        self._drivers = drivers
        self._workloads = workloads
        self._environ = environ
        self._report = report
        self._notes: dict[str, str] = {}
        self._effort = EFFORTS[options.size]
        self._rounds = self._effort.rounds if options.rounds is None else options.rounds
        self._warmup = self._effort.warmup if options.warmup is None else options.warmup
        self._seed = options.seed or draw_seed()
        self._sizes = {each.name: each.sizes(options.size) for each in workloads}

    def run(self, work: HostPath) -> Run:
        """Furnish, measure, describe."""
        begun, started = time.monotonic(), datetime.now(UTC)
        with ExitStack() as undo:
            disk = undo.enter_context(on_filesystem(work, self._options.filesystem))
            watch = Watch(disk)
            self._report(0, 1, "making the image")
            engine = undo.enter_context(Engine(f"{disk}/root", f"{work}/run", environ=self._environ))
            columns, default = self._columns(engine)
            around = self._set_up(engine, disk, default)
            stands = {each.name: self._stand(around, each) for each in columns if not each.reason}
            for stand in stands.values():
                undo.callback(stand.discard)
            cells, interrupted = self._measure(stands, time.monotonic() - begun)
            machine = watch.machine()
            warnings = [WARNING] if lacks_journal(disk) else []
        baseline = self._baseline(columns, default)
        if self._options.baseline not in ("", baseline):
            warnings.append(f"the baseline {self._options.baseline} cannot be measured here, {baseline} is it")
        return Run(
            kind="storage",
            started=started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - begun,
            seed=self._seed,
            rounds=self._rounds,
            warmup=self._warmup,
            baseline=baseline,
            command=self._options.command,
            place="direct" if self._options.direct else "container",
            machine=machine,
            columns=tuple(columns),
            workloads=self._rows(),
            cells=cells,
            image=self._options.image,
            partial=interrupted,
            warnings=tuple(warnings),
        )

    def _set_up(self, engine: Engine, disk: HostPath, host_driver: str) -> Surroundings:
        return set_up(
            engine,
            disk,
            self._workloads,
            self._sizes,
            image=self._options.image,
            direct=self._options.direct,
            host_driver=host_driver,
            environ=self._environ,
        )

    def _measure(self, stands: Mapping[str, Stand], spent_s: float) -> tuple[tuple[Cell, ...], bool]:
        """Take all values, in as many rounds as were asked for or else as there is time for."""
        return run_rounds(
            self._measurements(stands),
            rounds=self._rounds,
            warmup=self._warmup,
            seed=self._seed,
            progress=self._report,
            budget_s=None if self._options.rounds is not None else self._effort.budget_s - spent_s,
        )

    def _rows(self) -> tuple[Row, ...]:
        size, direct = self._options.size, self._options.direct
        return tuple(each.row(size, direct=direct, note=self._notes.get(each.name, "")) for each in self._workloads)

    def _columns(self, engine: Engine) -> tuple[list[Column], str]:
        """Return the columns, the plain directory last, and the driver whose containers show it."""
        known = selection.statuses(engine, "storage")
        columns = [selection.column(engine, known[name], self._options.options) for name in self._drivers]
        default = next((each.name for each in known.values() if each.default), "")
        if not default:
            raise NotSupportedError("bench: no storage driver works here", hint="pe drivers has each one's reason")
        return [*columns, Column(name=PLAIN, limit=True)], default

    def _baseline(self, columns: Sequence[Column], default: str) -> str:
        there = [each.name for each in columns if not each.reason]
        wanted = self._options.baseline or default
        return wanted if wanted in there else there[0]

    def _stand(self, around: Surroundings, column: Column) -> Stand:
        driver = None if column.limit else open_driver(around.engine.site.registry, "storage", column.name)
        assert driver is None or isinstance(driver, StorageDriver)  # noqa: S101 - what the kind says
        return Stand(around, driver, options=column.options)

    def _measurements(self, stands: Mapping[str, Stand]) -> list[Measurement]:
        return [
            Measurement(workload=each.name, column=name, take=partial(self._take, each, stand))
            for each in self._workloads
            for name, stand in stands.items()
            if each.limit or not stand.is_limit
        ]

    def _take(self, workload: Workload, stand: Stand) -> float:
        try:
            return stand.take(workload, self._sizes[workload.name])
        finally:
            if stand.note:
                self._notes[workload.name] = stand.note
                stand.note = ""
