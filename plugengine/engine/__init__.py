"""The library: everything the command line does is one typed method of `Engine`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from plugengine.errors import NotSupportedError, StateError
from plugengine.model import CgroupStats, Change, Network, NetworkStats, Port, Usage
from plugengine.plugins.choice import DriverStatus, status
from plugengine.site import Site
from plugengine.spec import ContainerSpec, ExecSpec, Image
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.state.database import is_damage
from plugengine.state.locations import Locations
from plugengine.streams.attach_client import Outcome, Streams
from plugengine.streams.logs import LogLine

if TYPE_CHECKING:
    from typing import BinaryIO

    from plugengine.networks.ipam import NetworkRow
    from plugengine.operations.inspect import ProcessLine
    from plugengine.operations.recovery import Finding
    from plugengine.volumes import Volume

Log = Callable[[str], None]


class Engine:
    """A container engine on one pair of roots.

    Args:
        root: Persistent state; default: PLUGENGINE_ROOT, else /var/lib/plugengine.
        run_root: State a reboot ends; default: PLUGENGINE_RUN_ROOT, else /run/plugengine.
        environ: Where the variables are read from.
        short_lived: This process ends with its last command, so that a monitor may be its direct child, which saves
            two milliseconds; in a process that lives on such children would stay as zombies.
        expect_start: A container will be started at once: its monitor is forked ahead, to settle meanwhile.
        mend: Mend what processes killed since the last command have left behind; `check` only tells of it.

    One object may be used by one thread
    at a time; many processes may work on the same roots.

    Raises:
        NotSupportedError: Not run by root.
        StateError: A root is unusable.
    """

    def __init__(
        self,
        root: str | None = None,
        run_root: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        short_lived: bool = False,
        mend: bool = True,
        expect_start: bool = False,
    ) -> None:
        if os.geteuid() != 0:
            raise NotSupportedError("engine: needs root", hint="run it as root, for example with sudo")
        environ = os.environ if environ is None else environ
        locations = Locations.from_environment(environ, root=root, run_root=run_root)
        locations.ensure()
        self.site: Site = Site(locations, environ=environ, short_lived=short_lived)
        if expect_start:
            from plugengine.monitor.spare import fork_spare

            self.site.spare = fork_spare(self.site)
        if mend:
            self._mend()

    def close(self) -> None:
        """Close the state database; running containers are not touched."""
        self.site.drop_spare()
        self.site.state.close()

    def __enter__(self) -> Engine:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def _mend(self) -> None:
        try:
            live = container_rows.list_all(self.site.state, ("creating", "starting", *container_rows.LIVE, "removing"))
        except StateError as exc:
            if not is_damage(exc):
                raise
            return  # every command will say the same, but for the one that mends it
        if live:
            from plugengine.operations.recovery import mend_dead

            mend_dead(self.site, live)

    # --- drivers -------------------------------------------------------------------------------------------

    def drivers(self) -> tuple[DriverStatus, ...]:
        """Return every installed driver of every kind, supported or with the reasons why not."""
        return status(self.site.registry, self.site.host, self.site.configured)

    def missing_drivers(self, reference: str) -> tuple[str, ...]:
        """Return those of a container's drivers that are not installed any more, as "storage driver NAME"."""
        return self.site.missing(self.get(reference).choice)

    # --- containers ----------------------------------------------------------------------------------------

    def get(self, reference: str) -> ContainerRow:
        """Return a container by name, id or the beginning of its id.

        Raises:
            NotFoundError: There is none.
        """
        return container_rows.get(self.site.state, reference)

    def containers(self, *, all: bool = False) -> list[ContainerRow]:  # noqa: A002 - docker's word
        """Return the running containers, or all of them, the newest first."""
        return container_rows.list_all(self.site.state, None if all else (*container_rows.LIVE, "starting"))

    def create(self, spec: ContainerSpec) -> ContainerRow:
        """Make a container without starting it."""
        from plugengine.containers.create import create

        return create(self.site, spec)

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
            warn: Takes one line for each limit or option this host cannot hold.
        """
        from plugengine.operations import lifecycle

        return lifecycle.start(self.site, self.get(reference), streams=streams, debug=debug, log=log, warn=warn)

    def run(
        self,
        spec: ContainerSpec,
        *,
        streams: Streams | None = None,
        debug: bool = False,
        log: Log | None = None,
        warn: Log | None = None,
    ) -> Outcome:
        """Make and start a container, and stay connected until it ends.

        Raises:
            PlugengineError: Also when the command cannot be started; the container is kept unless `auto_remove`.
        """
        row = self.create(spec)
        outcome = self.start(row.id, streams=streams or Streams(), debug=debug, log=log, warn=warn)
        assert outcome is not None  # noqa: S101 - streams were given
        return outcome

    def describe_run(self, spec: ContainerSpec) -> list[str]:
        """Return the steps `run` would take, one line each, without taking any."""
        from plugengine.containers.dry_run import describe

        return describe(self.site, spec)

    def stop(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        """Ask a container to end, then make it; one that does not run is fine."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.guest import signal_number

        number = None if signal is None else signal_number(signal)
        lifecycle.stop(self.site, self.get(reference), timeout_s=timeout_s, number=number)

    def kill(self, reference: str, *, signal: str = "KILL") -> None:
        """Send a signal to a running container's first process."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.guest import signal_number

        lifecycle.kill(self.site, self.get(reference), signal_number(signal))

    def restart(self, reference: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
        """Stop and start."""
        from plugengine.operations import lifecycle
        from plugengine.runtime.guest import signal_number

        number = None if signal is None else signal_number(signal)
        lifecycle.restart(self.site, self.get(reference), timeout_s=timeout_s, number=number)

    def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container, with `volumes` also its anonymous volumes."""
        from plugengine.operations import lifecycle

        lifecycle.remove(self.site, self.get(reference), force=force, with_volumes=volumes)

    def wait(self, reference: str) -> int:
        """Wait until a container ends and return its exit code."""
        from plugengine.operations import lifecycle

        return lifecycle.wait(self.site, self.get(reference))

    def pause(self, reference: str) -> None:
        """Freeze every process of a container."""
        from plugengine.operations import lifecycle

        lifecycle.pause(self.site, self.get(reference))

    def unpause(self, reference: str) -> None:
        """Let a paused container go on."""
        from plugengine.operations import lifecycle

        lifecycle.unpause(self.site, self.get(reference))

    def rename(self, reference: str, name: str) -> None:
        """Give a container another name."""
        container_rows.rename(self.site.state, self.get(reference).id, name)

    def attach(self, reference: str, streams: Streams) -> Outcome:
        """Connect to a running container's streams until it ends or the caller detaches."""
        from plugengine.operations import lifecycle

        return lifecycle.attach(self.site, self.get(reference), streams)

    def exec(self, reference: str, spec: ExecSpec, *, streams: Streams | None = None) -> Outcome:
        """Run another command in a running container; without streams, or with `detach`, return at once.

        Raises:
            CommandNotFoundError, NotExecutableError: The command.
            ConflictError: The container does not run, or is paused.
        """
        from plugengine.operations.exec import run_exec

        return run_exec(self.site, self.get(reference), spec, streams=streams)

    def logs(self, reference: str, *, tail: int | None = None, follow: bool = False) -> Iterator[LogLine]:
        """Yield what a container wrote, the last `tail` lines; with follow until it ends."""
        from plugengine.operations.inspect import read_log

        return read_log(self.site, self.get(reference), tail=tail, follow=follow)

    def inspect(self, reference: str) -> dict[str, Any]:
        """Return everything about a container, in docker's shape."""
        from plugengine.operations.inspect import inspect

        return inspect(self.site, self.get(reference))

    def top(self, reference: str) -> list[ProcessLine]:
        """Return a running container's processes, read on the host's side."""
        from plugengine.operations.inspect import processes

        return processes(self.site, self.get(reference))

    def stats(self, reference: str) -> tuple[CgroupStats, NetworkStats]:
        """Return a running container's use of resources now."""
        from plugengine.operations.inspect import stats

        return stats(self.site, self.get(reference))

    def driver_stats(self, reference: str) -> dict[str, int]:
        """Return what the file server of a container's storage driver has done; empty where there is none."""
        from plugengine.operations.inspect import driver_stats

        return driver_stats(self.site, self.get(reference))

    def ports(self, reference: str) -> tuple[Port, ...]:
        """Return a container's published ports."""
        from plugengine.operations.inspect import ports

        return ports(self.get(reference))

    def changes(self, reference: str) -> Iterable[Change]:
        """Return how a container's filesystem differs from its image."""
        from plugengine.operations.inspect import changes

        return changes(self.site, self.get(reference))

    def usage(self, reference: str) -> Usage:
        """Return the space a container's writable layer takes."""
        from plugengine.operations.inspect import usage

        return usage(self.site, self.get(reference))

    # --- images --------------------------------------------------------------------------------------------

    def load(
        self, source: str | BinaryIO, *, progress: Callable[[str, int, int | None], None] | None = None
    ) -> tuple[Image, ...]:
        """Load images from an archive (docker-archive or OCI, plain, gzip or zstd)."""
        return self.site.images.load(source, progress=progress)

    def import_rootfs(
        self,
        source: str | BinaryIO,
        name: str | None = None,
        *,
        changes: Iterable[str] = (),
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> Image:
        """Make a one-layer image from the tar of a root filesystem."""
        return self.site.images.import_rootfs(source, name, changes=tuple(changes), progress=progress)

    def images(self) -> list[Image]:
        """Return the images of the store, the newest first."""
        return self.site.images.list()

    def image(self, reference: str) -> Image:
        """Return one image.

        Raises:
            NotFoundError: There is none.
        """
        return self.site.images.get(reference)

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Return everything about an image, in docker's shape."""
        return self.site.images.inspect(reference)

    def tag(self, source: str, target: str) -> None:
        """Give an image another name."""
        self.site.images.tag(source, target)

    def remove_image(self, reference: str, *, force: bool = False) -> list[str]:
        """Remove a name, and with its last name the image; return a line for each thing removed."""
        from plugengine.operations.inspect import containers_of
        from plugengine.operations.recovery import follow_removed_layers

        lines = self.site.images.remove(reference, force=force, in_use=lambda image: containers_of(self.site, image))
        follow_removed_layers(self.site)
        return lines

    # --- volumes -------------------------------------------------------------------------------------------

    def volumes(self) -> list[Volume]:
        """Return all volumes."""
        from plugengine import volumes

        return list(volumes.list_all(self.site.state))

    def create_volume(self, name: str | None = None, *, labels: Mapping[str, str] | None = None) -> Volume:
        """Make a volume; without a name an anonymous one."""
        from plugengine import volumes

        return volumes.create(self.site.state, self.site.locations, name, labels=labels or {}, anonymous=name is None)

    def remove_volume(self, name: str) -> None:
        """Remove a volume.

        Raises:
            ConflictError: A container uses it.
        """
        from plugengine import volumes

        volumes.remove(self.site.state, self.site.locations, name)

    # --- networks ------------------------------------------------------------------------------------------

    def networks(self) -> list[NetworkRow]:
        """Return all networks by name: those somebody made, and the drivers' own that are in use."""
        from plugengine.networks import networks

        return networks.rows(self.site)

    def create_network(
        self,
        name: str,
        *,
        driver: str | None = None,
        subnet: str | None = None,
        gateway: str | None = None,
        ip_range: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Network:
        """Make a network that containers can join by its name.

        Args:
            name: Not that of a driver.
            driver: None: the default.
            subnet: CIDR; None: a free private one. Only for drivers that claim ADDRESSES, as the next two.
            gateway: None: the first address of the subnet.
            ip_range: The part of the subnet addresses are leased from; None: all of it.
            options: The driver's, for the whole network.

        Raises:
            UsageError: An option the driver does not have, or an address that does not fit.
            ConflictError: The name or the subnet is taken.
            NotSupportedError: The driver does not take addresses from the engine.
            DriverError: The driver could not make its side; nothing is left.
        """
        from plugengine.networks import networks

        return networks.create(
            self.site, name, driver, subnet=subnet, gateway=gateway, ip_range=ip_range, options=options
        )

    def remove_network(self, name: str) -> None:
        """Remove a network.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: A running container is on it, or it is a driver's own.
        """
        from plugengine.networks import networks

        networks.remove(self.site, name)

    def inspect_network(self, name: str) -> dict[str, Any]:
        """Return everything about a network, in docker's shape."""
        from plugengine.operations.inspect import inspect_network

        return inspect_network(self.site, name)

    # --- system --------------------------------------------------------------------------------------------

    def check(self, *, repair: bool = False) -> list[Finding]:
        """Return what killed processes or a crash left behind; with repair, mend it."""
        from plugengine.operations.recovery import check

        return check(self.site, repair=repair)

    def reset(self) -> None:
        """Stop and remove everything: containers, networks, images, volumes."""
        from plugengine.operations.recovery import reset

        reset(self.site)
