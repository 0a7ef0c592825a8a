"""`engine.containers`: make, run, look at and remove containers."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, overload

from plugengine.model import Change, Port, Usage
from plugengine.objects import Container, ContainerStats
from plugengine.site import Site
from plugengine.spec import ContainerSpec, ExecSpec
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.streams.attach_client import Outcome, Streams
from plugengine.streams.logs import LogLine

if TYPE_CHECKING:
    from plugengine.images.store import Progress
    from plugengine.operations.inspect import ProcessLine

Log = Callable[[str], None]


class Containers:
    """The containers of an engine; a reference is a name, an id or the beginning of an id."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def _row(self, reference: str) -> ContainerRow:
        return container_rows.get(self._site.state, reference)

    def _shown(self, row: ContainerRow) -> Container:
        from plugengine.operations.inspect import container

        return container(self._site, row)

    def get(self, reference: str) -> Container:
        """Return a container by name, id or the beginning of its id.

        Raises:
            NotFoundError: There is none.
        """
        return self._shown(self._row(reference))

    def list(self, *, all: bool = False) -> builtins.list[Container]:  # noqa: A002 - docker's word
        """Return the running containers, or all of them, the newest first."""
        statuses = None if all else (*container_rows.LIVE, "starting")
        return [self._shown(row) for row in container_rows.list_all(self._site.state, statuses)]

    def create(self, spec: ContainerSpec, *, progress: Progress | None = None) -> Container:
        """Make a container without starting it; `progress` is called while its image is made or fetched."""
        from plugengine.containers.create import create, plan_creation

        return self._shown(create(self._site, plan_creation(self._site, spec, progress=progress)))

    def start(
        self,
        reference: str,
        *,
        streams: Streams | None = None,
        debug: bool = False,
        log: Log | None = None,
        warn: Log | None = None,
    ) -> Outcome | None:
        """Start a container; with streams, stay connected until it ends or the caller detaches.

        Args:
            reference: Name, id or the beginning of an id.
            streams: The caller's descriptors.
            debug: Have `log` called for each step.
            log: Takes one line.
            warn: Takes one line for each limit or option this host cannot enforce.
        """
        from plugengine.operations import lifecycle

        return lifecycle.start(self._site, self._row(reference), streams=streams, debug=debug, log=log, warn=warn)

    @overload
    def run(
        self,
        spec: ContainerSpec,
        *,
        detach: Literal[False] = False,
        streams: Streams | None = None,
        made: Callable[[Container], None] | None = None,
        progress: Progress | None = None,
        debug: bool = False,
        log: Log | None = None,
        warn: Log | None = None,
    ) -> Outcome: ...

    @overload
    def run(
        self,
        spec: ContainerSpec,
        *,
        detach: Literal[True],
        made: Callable[[Container], None] | None = None,
        progress: Progress | None = None,
        debug: bool = False,
        log: Log | None = None,
        warn: Log | None = None,
    ) -> Container: ...

    def run(
        self,
        spec: ContainerSpec,
        *,
        detach: bool = False,
        streams: Streams | None = None,
        made: Callable[[Container], None] | None = None,
        progress: Progress | None = None,
        debug: bool = False,
        log: Log | None = None,
        warn: Log | None = None,
    ) -> Outcome | Container:
        """Make and start a container, and stay connected until it ends; the one path of a run, `pe run` takes it too.

        Args:
            spec: The container.
            detach: Return once its command runs.
            streams: The caller's descriptors; None: none is connected.
            made: Called with the container before it is started; what it raises leaves the container created.
            progress: Called while the image is made or fetched; see `engine.images.load`.
            debug: Have `log` called for each step.
            log: Takes one line.
            warn: Takes one line for each limit or option this host cannot enforce.

        Returns:
            How it ended; with `detach` the container as it was made, of which `get` says what has become.

        Raises:
            PlugengineError: Also when the command cannot be started; the container is kept unless `auto_remove`.
        """
        from plugengine.operations.run import run

        def tell(row: ContainerRow) -> None:
            if made is not None:
                made(self._shown(row))

        connected = None if detach else streams or Streams()
        row, outcome = run(
            self._site, spec, streams=connected, made=tell, progress=progress, debug=debug, log=log, warn=warn
        )
        return self._shown(row) if outcome is None else outcome

    def describe_run(self, spec: ContainerSpec) -> builtins.list[str]:
        """Return the steps `run` would take, one line each, without taking any."""
        from plugengine.operations.run import plan_run

        return plan_run(self._site, spec).describe()

    def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        """Ask a container to end, then make it; one that does not run is fine."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.signals import signal_number

        number = None if signal is None else signal_number(signal)
        lifecycle.stop(self._site, self._row(reference), timeout_s=timeout_s, number=number)

    def kill(self, reference: str, *, signal: str = "KILL") -> None:
        """Send a signal to a running container's first process."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.signals import signal_number

        lifecycle.kill(self._site, self._row(reference), signal_number(signal))

    def restart(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        """Stop and start."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.signals import signal_number

        number = None if signal is None else signal_number(signal)
        lifecycle.restart(self._site, self._row(reference), timeout_s=timeout_s, number=number)

    def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> tuple[str, ...]:
        """Remove a container, with `volumes` also its anonymous volumes.

        Args:
            reference: Which one.
            force: Kill one that runs; do without a storage driver that fails.
            volumes: Those that no other container uses.

        Returns:
            A sentence for each thing that could not be removed with it.

        Raises:
            ConflictError: It runs, or somebody else works on it and does not come to an end.
            DriverError: Its storage driver could not remove it.
        """
        from plugengine.operations.remove import remove

        return remove(self._site, self._row(reference), force=force, with_volumes=volumes)

    def wait(self, reference: str) -> int:
        """Wait until a container ends and return its exit code."""
        from plugengine.operations import lifecycle

        return lifecycle.wait(self._site, self._row(reference))

    def pause(self, reference: str) -> None:
        """Freeze every process of a container."""
        from plugengine.operations import lifecycle

        lifecycle.pause(self._site, self._row(reference))

    def unpause(self, reference: str) -> None:
        """Let a paused container go on."""
        from plugengine.operations import lifecycle

        lifecycle.unpause(self._site, self._row(reference))

    def rename(self, reference: str, name: str) -> None:
        """Give a container another name."""
        container_rows.rename(self._site.state, self._row(reference).id, name)

    def attach(self, reference: str, streams: Streams) -> Outcome:
        """Connect to a running container's streams until it ends or the caller detaches."""
        from plugengine.operations import lifecycle

        return lifecycle.attach(self._site, self._row(reference), streams)

    def exec(self, reference: str, spec: ExecSpec, *, streams: Streams | None = None) -> Outcome:
        """Run another command in a running container; without streams, or with `detach`, return at once.

        Raises:
            CommandNotFoundError, NotExecutableError: The command.
            ConflictError: The container does not run, or is paused.
        """
        from plugengine.operations.exec import run_exec

        return run_exec(self._site, self._row(reference), spec, streams=streams)

    def logs(self, reference: str, *, tail: int | None = None, follow: bool = False) -> Iterator[LogLine]:
        """Yield what a container wrote, the last `tail` lines; with follow until it ends."""
        from plugengine.operations.inspect import read_log

        return read_log(self._site, self._row(reference), tail=tail, follow=follow)

    def top(self, reference: str) -> builtins.list[ProcessLine]:
        """Return a running container's processes, read on the host's side."""
        from plugengine.operations.inspect import processes

        return processes(self._site, self._row(reference))

    def stats(self, reference: str) -> ContainerStats:
        """Return a running container's use of resources now; what a driver does not tell is missing, and why.

        Raises:
            ConflictError: It is not running.
        """
        from plugengine.operations.inspect import stats

        return stats(self._site, self._row(reference))

    def driver_stats(self, reference: str) -> dict[str, int]:
        """Return what the file server of a container's storage driver has done; empty where there is none."""
        from plugengine.operations.inspect import driver_stats

        return driver_stats(self._site, self._row(reference))

    def ports(self, reference: str) -> tuple[Port, ...]:
        """Return a container's published ports."""
        from plugengine.operations.inspect import ports

        return ports(self._row(reference))

    def changes(self, reference: str) -> Iterable[Change]:
        """Return how a container's filesystem differs from its image."""
        from plugengine.operations.inspect import changes

        return changes(self._site, self._row(reference))

    def usage(self, reference: str) -> Usage:
        """Return the space a container's writable layer takes.

        Raises:
            PlugengineError: Its storage driver was uninstalled, or cannot tell.
        """
        from plugengine.operations.inspect import usage

        return usage(self._site, self._row(reference))
