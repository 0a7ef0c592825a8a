"""The steps of a container's start: data, each of which can say itself, do itself and undo itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from plugengine.bundle import Bundle, Process, RuntimeRequest, Spawn
from plugengine.containers import file_server
from plugengine.errors import PlugengineError
from plugengine.model import Attachment, CgroupRequest, HostPath, Limits, NetworkRequest, Record, Settings
from plugengine.plugins.drivers import DriverSet
from plugengine.plugins.observers import Observers
from plugengine.runtime import describe
from plugengine.runtime.handle import Handle
from plugengine.runtime.process import identify
from plugengine.site import Site
from plugengine.streams.stdio import Pipes


class Live:
    """What the steps of one start have made so far; lives in the monitor.

    Args:
        site: Where.
        drivers: Those of the container.
        log: Takes the line or lines of each step before it is done.
        tell: Tells the observers.
    """

    def __init__(
        self, site: Site, drivers: DriverSet, *, log: Callable[[str], None], tell: Observers | None = None
    ) -> None:
        self.site = site
        self.drivers = drivers
        self.log = log
        self.tell: Observers = tell or Observers(None, "")
        self.server: file_server.ServerProcess | None = None  # where the storage driver has one
        self.cgroup: Record | None = None
        self.connection: NetworkRequest | None = None  # where there is a network of its own
        self.attachment: Attachment | None = None
        self.afterwards: list[Callable[[], None]] = []  # what nobody need wait for, once all is undone
        self._first: Handle | None = None

    @property
    def first(self) -> Handle:
        """The first process, which a `CreateStep` has made."""
        if self._first is None:
            raise LookupError("the first process is not made yet")
        return self._first

    @first.setter
    def first(self, made: Handle) -> None:
        self._first = made


class Step(Protocol):
    """One action on the host."""

    def describe(self) -> str:
        """Say what `do` does; the first line alone names it, those after it are indented."""

    def do(self, live: Live) -> None:
        """Act.

        Raises:
            PlugengineError, OSError: Nothing of this step is left behind.
        """

    def undo(self, live: Live) -> None:
        """Take it back; only of a step that was done. What is gone already is fine."""


class Runner:
    """Runs steps in order and takes them back in reverse."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._done: list[Step] = []

    def run(self, steps: Sequence[Step]) -> None:
        """Do every step; on failure everything done so far is undone before the error goes on."""
        for step in steps:
            self._live.log(step.describe())
            self._tell("step-begin", step, undo=False)
            try:
                step.do(self._live)
            except BaseException:
                self.unwind()
                raise
            self._done.append(step)
            self._tell("step-end", step, undo=False)

    def unwind(self) -> list[str]:
        """Undo what was done, last first; try everything, return what went wrong."""
        problems: list[str] = []
        while self._done:
            step = self._done.pop()
            self._live.log(f"undo: {step.describe().splitlines()[0]}")
            self._tell("step-begin", step, undo=True)
            try:
                step.undo(self._live)
            except (PlugengineError, OSError) as exc:
                problems.append(f"undo {step.describe().splitlines()[0]}: {exc}")
            self._tell("step-end", step, undo=True)
        return problems

    def _tell(self, action: str, step: Step, *, undo: bool) -> None:
        if self._live.tell.present:
            kind = type(step).__name__.removesuffix("Step").lower()
            self._live.tell(action, step=kind, what=step.describe().splitlines()[0], undo=str(undo).lower())


def delete_remains(live: Live, unmake: Callable[[], None]) -> None:
    """Have a driver unmake what a failed verb of it may have left: one that hung, or returned what nobody can use.

    What goes wrong is logged only: the failure itself is the news.
    """
    try:
        unmake()
    except (PlugengineError, OSError) as exc:
        live.log(f"undo: {exc}")


class CgroupStep(Struct, frozen=True):
    """The control group and its limits."""

    request: CgroupRequest
    settings: Settings
    limits: Limits

    def describe(self) -> str:
        """Name the group and what is written."""
        writes = ", ".join(f"{write.file}={write.value.strip()}" for write in self.settings.writes)
        return f"make cgroup {self.request.parent}/{self.request.container_id}" + (f" with {writes}" if writes else "")

    def do(self, live: Live) -> None:
        """Make it and write the limits."""
        cgroup, record = live.drivers.cgroup, None
        try:
            record = cgroup.create(self.request)
            cgroup.apply(record, self.settings, self.limits)
        except BaseException:
            delete_remains(live, lambda: cgroup.remove(self.request, record))
            raise
        live.cgroup = record

    def undo(self, live: Live) -> None:
        """Kill what is left in it and remove it."""
        if live.cgroup is not None:
            live.drivers.cgroup.kill(self.request, live.cgroup)
            live.drivers.cgroup.remove(self.request, live.cgroup)


class CreateStep(Struct, frozen=True, kw_only=True):
    """The first process, held at its gate: in its namespaces and its cgroup, with the ids of its user."""

    request: RuntimeRequest
    bundle: Bundle
    files: tuple[HostPath, ...]  # the engine's own that are mounted inside, written later
    interactive: bool  # somebody will write to its standard input

    def describe(self) -> str:
        """Name the namespaces, then the inside line by line."""
        user_map = self.bundle.namespaces.user_map
        mapped = f", mapping user ids {describe.user_map(user_map)}" if user_map is not None else ""
        first = f"create the first process {describe.namespaces(self.bundle.namespaces)}{mapped}"
        return "\n  inside: ".join([first, *describe.inside(self.bundle)])

    def do(self, live: Live) -> None:
        """Look its user up, and have the runtime make it."""
        for path in self.files:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        planned = self.bundle.process
        bundle = msgspec.structs.replace(
            self.bundle, process=identify(planned, self.bundle.root, self.bundle.namespaces.user_map)
        )
        entry = None if live.cgroup is None else live.drivers.cgroup.entry(live.cgroup)
        pipes = Pipes(tty=planned.terminal, interactive=self.interactive)
        runtime, made = live.drivers.runtime, None
        try:
            made = runtime.create(self.request, bundle, Spawn(stdio=pipes.guest, cgroup=entry))
            live.first = Handle(made, pipes, runtime.name)
        except BaseException:
            pipes.close()
            delete_remains(live, lambda: runtime.delete(self.request, None if made is None else made.record))
            raise
        pipes.close_guest_ends()

    def undo(self, live: Live) -> None:
        """Kill and reap it, unless the monitor has seen it end."""
        live.first.end()
        live.drivers.runtime.delete(self.request, live.first.record)


class StartStep(Struct, frozen=True):
    """Open the gate: the first process becomes the command."""

    request: RuntimeRequest
    process: Process

    def describe(self) -> str:
        """Say the command, then with what rights and limits it runs."""
        return "\n  ".join(describe.process(self.process))

    def do(self, live: Live) -> None:
        """Let it go and wait until exec has happened or failed."""
        live.first.started(live.drivers.runtime.start(self.request, live.first.record))

    def undo(self, live: Live) -> None:
        """End it, if it has not ended."""
        live.first.kill()
