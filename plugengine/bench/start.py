"""Measure how quickly containers come and go, for combinations of drivers and for other engines: `pe bench start`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct, field
from msgspec.structs import replace

from plugengine.bench import selection
from plugengine.bench.commands import Shell, own_command
from plugengine.bench.contenders import AT_ONCE, CommandLine, Contender, Floor, Library
from plugengine.bench.machine import Watch
from plugengine.bench.peers import PEER_IMAGE, peers
from plugengine.bench.results import Cell, Column, Run, Workload
from plugengine.bench.rounds import Measurement, Progress, draw_seed, run_rounds
from plugengine.bench.workdir import on_filesystem, run_below
from plugengine.engine import Engine
from plugengine.errors import NotSupportedError, PlugengineError
from plugengine.model import HostPath
from plugengine.plugins.registry import Registry
from plugengine.spec import ContainerSpec

if TYPE_CHECKING:
    from plugengine.bench.peers import Peer
    from plugengine.plugins.probing import DriverStatus

DEFAULT_IMAGE: Final = "host:base"
WITHOUT: Final = "none"  # the network driver that costs least, measured next to the default one
_LIBRARY: Final = "library"
_NEEDS_BYTES: Final = 600_000_000
_COLUMN_BYTES: Final = 50_000_000
_PEER_NETWORKS: Final = {WITHOUT: ("--network", WITHOUT), "default": ()}
_GROUP: Final = "life of a container"

WORKLOADS: Final = tuple(
    Workload(name=name, title=title, sentence=sentence, group=_GROUP, unit="s", cold=name == "run-cold")
    for name, title, sentence in (
        ("run", "run --rm", "make a container, run `true` in it, remove it; until the command returns to the shell"),
        ("run-cold", "run --rm, cold", "the same without a prepared process (PLUGENGINE_WARM=0)"),
        ("create", "create", "make a container without starting it"),
        ("start", "start", "start a container that was made before; until its command runs"),
        ("exec", "exec", "run `true` in a container that runs"),
        ("stop", "stop", "end a container whose command obeys at once"),
        ("parallel", "at once", f"{AT_ONCE} times `run --rm` at once; the time until the last has ended, for each"),
    )
)
NAMES: Final = tuple(each.name for each in WORKLOADS)


class StartOptions(Struct, frozen=True, kw_only=True):
    """What to measure, and how."""

    storage: tuple[str, ...] = ()  # none: all that are installed
    network: tuple[str, ...] = ()  # none: the default one, and "none"
    workloads: tuple[str, ...] = ()  # none: all there are
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by driver
    peers: bool = False
    image: str = DEFAULT_IMAGE
    rounds: int = 10
    warmup: int = 1
    budget_s: float | None = None
    seed: int = 0  # 0: one is drawn
    baseline: str = ""  # a column; empty: the first of the default drivers
    directory: str | None = None  # None: /var/tmp
    filesystem: str | None = None  # made for the run: btrfs, ext4 or xfs; None: that of the directory
    command: tuple[str, ...] = ()  # how to reproduce it


def measure(
    options: StartOptions, *, progress: Progress, environ: Mapping[str, str] = os.environ, registry: Registry
) -> Run:
    """Measure, in namespaces of the run's own, and leave nothing behind.

    Raises:
        NotFoundError: A driver or workload that does not exist; the hint has the near miss.
        NotSupportedError: Not root, or nothing works here.
        NoSpaceError: The directory has less space than the run needs.
        KeyboardInterrupt: Before there was a result; later the run is partial.
    """
    storage = selection.check_drivers(registry, "storage", options.storage)
    selection.check_drivers(registry, "network", options.network)
    selection.check_names("workload", options.workloads, NAMES)
    selection.check_options(registry, ["storage", "network"], options.options)
    needs = _NEEDS_BYTES * (1 + options.peers) + _COLUMN_BYTES * AT_ONCE * len(storage)
    return run_below(
        options.directory, needs, lambda work, report: _Session(options, environ, report).run(work), progress=progress
    )


class _Session:
    """One run, inside its namespaces."""

    def __init__(self, options: StartOptions, environ: Mapping[str, str], report: Progress) -> None:
        self._options = options
        self._environ = environ
        self._report = report
        self._failed: dict[str, str] = {}  # column to why it could not be made ready
        self._missing: list[Column] = []  # which have a reason

    def run(self, work: HostPath) -> Run:
        """Get everybody ready, measure, describe."""
        begun, started = time.monotonic(), datetime.now(UTC)
        with ExitStack() as undo:
            disk = undo.enter_context(on_filesystem(work, self._options.filesystem))
            watch = Watch(disk)
            self._report(0, 1, "making the image")
            engine = undo.enter_context(Engine(f"{disk}/root", f"{work}/run", environ=self._environ))
            undo.callback(_remove_containers, engine)
            engine.site.images.resolve(self._options.image)
            contenders = self._contenders(engine, Shell(work=work, disk=disk), undo)
            if not contenders:
                why = "; ".join(f"{column.name}: {column.reason}" for column in self._missing)
                raise NotSupportedError("bench: nothing of what is asked for works here", hint=why)
            baseline = self._baseline(contenders)
            for contender in contenders:
                self._report(0, 1, f"trying {contender.column.name}")
                self._check(contender)
            seed = self._options.seed or draw_seed()
            cells, partial = run_rounds(
                list(self._measurements(contenders)),
                rounds=self._options.rounds,
                warmup=self._options.warmup,
                seed=seed,
                progress=self._report,
                budget_s=self._options.budget_s,
            )
            machine = watch.machine()
        return Run(
            kind="start",
            started=started.isoformat(timespec="seconds"),
            duration_s=time.monotonic() - begun,
            seed=seed,
            rounds=self._options.rounds,
            warmup=self._options.warmup,
            baseline=baseline,
            command=self._options.command,
            place="container",
            machine=machine,
            columns=(*(each.column for each in contenders), *self._missing),
            workloads=self._workloads(),
            cells=(*cells, *self._failures(contenders)),
            image=self._options.image,
            partial=partial,
        )

    def _workloads(self) -> tuple[Workload, ...]:
        return tuple(each for each in WORKLOADS if each.name in (self._options.workloads or NAMES))

    # --- who takes part ---

    def _contenders(self, engine: Engine, shell: Shell, undo: ExitStack) -> list[Contender]:
        found: list[Contender] = []
        pe = [*own_command(), "--root", engine.site.locations.root, "--run-root", engine.site.locations.run_root]
        for storage, network in self._combinations(engine):
            column = self._column(storage, network)
            spec = self._spec(engine, storage, network)
            flags = ["--storage", storage.name, *_each("--storage-opt", spec.storage_options)]
            flags += ["--net", spec.network or network.name]
            found.append(CommandLine(column, shell, pe, flags=flags, image=self._options.image, warms_up=True))
            found.append(Library(replace(column, name=f"{column.name} {_LIBRARY}"), engine, spec))
        if self._options.peers and found:
            found += self._peers(engine, shell, undo)
        if found:
            found += [
                Floor(Column(name="process", limit=True), shell, ["true"]),
                Floor(Column(name="interpreter", limit=True), shell, [sys.executable, "-I", "-S", "-c", "pass"]),
            ]
        return found

    def _combinations(self, engine: Engine) -> Iterator[tuple[DriverStatus, DriverStatus]]:
        """Yield what works here; what does not becomes a column with the reason."""
        storages, networks = selection.statuses(engine, "storage"), selection.statuses(engine, "network")
        default = next((each.name for each in networks.values() if each.default), WITHOUT)
        usual = [name for name in dict.fromkeys((WITHOUT, default)) if name in networks]
        chosen = [networks[name] for name in self._options.network or usual]
        wanted = [storages[name] for name in self._options.storage or storages]
        for status in (*wanted, *chosen):
            column = selection.column(engine, status, self._options.options)
            if column.reason:
                self._missing.append(column)
        missing = {column.name for column in self._missing}
        for storage in sorted(wanted, key=lambda each: not each.default):
            for network in chosen:
                if not {storage.name, network.name} & missing:
                    yield storage, network

    def _column(self, storage: DriverStatus, network: DriverStatus) -> Column:
        given = self._options.options
        options = {
            f"{each.name}:{name}": value
            for each in (storage, network)
            for name, value in given.get(each.name, {}).items()
        }
        sources = list(dict.fromkeys((storage.distribution, network.distribution)))
        versions = list(dict.fromkeys((storage.version, network.version)))
        return Column(
            name=f"{storage.name}+{network.name}",
            version=", ".join(versions),
            distribution=", ".join(sources),
            options=options,
        )

    def _spec(self, engine: Engine, storage: DriverStatus, network: DriverStatus) -> ContainerSpec:
        return ContainerSpec(
            image=self._options.image,
            storage=storage.name,
            storage_options=self._options.options.get(storage.name, {}),
            network=selection.network_name(engine, network.name, self._options.options),
        )

    def _peers(self, engine: Engine, shell: Shell, undo: ExitStack) -> Iterator[Contender]:
        tar = f"{shell.disk}/image.tar"
        _write_tar(engine, self._options.image, tar)
        for peer in peers(shell):
            self._report(0, 1, f"preparing {peer.name}")
            undo.callback(peer.close)
            yield from self._peer(peer, tar, shell)

    def _peer(self, peer: Peer, tar: str, shell: Shell) -> Iterator[Contender]:
        try:
            facts = dict(peer.prepare(tar))
        except (PlugengineError, OSError) as exc:
            self._missing.append(Column(name=peer.name, reason=str(exc)))
            return
        version = facts.pop("version", "")
        for network, words in _PEER_NETWORKS.items():
            column = Column(name=f"{peer.name}+{network}", version=version, options=facts)
            yield CommandLine(column, shell, peer.command, flags=[*peer.flags, *words], image=PEER_IMAGE)

    def _baseline(self, contenders: Sequence[Contender]) -> str:
        names = [each.column.name for each in contenders]
        if self._options.baseline:
            selection.check_names("baseline", [self._options.baseline], names)
        return self._options.baseline or names[0]

    # --- measuring ---

    def _check(self, contender: Contender) -> None:
        try:
            contender.check()
        except (PlugengineError, OSError) as exc:
            self._failed[contender.column.name] = str(exc)

    def _measurements(self, contenders: Sequence[Contender]) -> Iterator[Measurement]:
        for name, column, take in self._takes(contenders):
            if column not in self._failed:
                yield Measurement(workload=name, column=column, take=take)

    def _failures(self, contenders: Sequence[Contender]) -> Iterator[Cell]:
        for name, column, _ in self._takes(contenders):
            if column in self._failed:
                yield Cell(workload=name, column=column, error=f"before the first round: {self._failed[column]}")

    def _takes(self, contenders: Sequence[Contender]) -> Iterator[tuple[str, str, Callable[[], float]]]:
        for workload in self._workloads():
            for contender in contenders:
                take = contender.takes().get(workload.name)
                if take is not None:
                    yield workload.name, contender.column.name, take


def _each(flag: str, options: Mapping[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (flag, f"{name}={value}")]


def _write_tar(engine: Engine, image: str, path: str) -> None:
    """Write the image's only layer as the tar of a root filesystem."""
    from plugengine.images.layers.diff import diff_layer

    layers = engine.images.get(image).layers
    if len(layers) != 1:
        raise NotSupportedError(f"image {image}: {len(layers)} layers", hint="--peers needs an image of one layer")
    with open(path, "wb") as stream:
        diff_layer(layers[0], stream)


def _remove_containers(engine: Engine) -> None:
    for row in engine.containers.list(all=True):
        with suppress(PlugengineError):
            engine.containers.remove(row.id, force=True)
