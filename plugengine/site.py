"""Where an engine works: its roots, state, images and installed drivers, shared by all operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plugengine.kernel.machine import kernel_version
from plugengine.model import Host, HostPath
from plugengine.plugins import choice
from plugengine.plugins.drivers import Driver, DriverSet, open_driver, open_observers
from plugengine.plugins.probing import KINDS
from plugengine.plugins.registry import Registry
from plugengine.spec import ContainerSpec, DriverChoice
from plugengine.state.locations import Locations
from plugengine.state.state import State

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore
    from plugengine.monitor.spare import Spare


def host_at(root: HostPath, run_root: HostPath) -> Host:
    """Return this host as drivers' probes see it, for an engine with these roots."""
    return Host(root=root, run_root=run_root, kernel=kernel_version())


class Site:
    """One pair of roots and what belongs to it; cheap to make, everything heavy is opened at first use."""

    def __init__(self, locations: Locations, *, environ: Mapping[str, str], short_lived: bool = False) -> None:
        self.short_lived = short_lived  # this process ends soon and need not keep its children from becoming zombies
        self.locations = locations
        self.environ = environ
        self.state: State = State(locations.root)
        self.spare: Spare | None = None  # a monitor forked ahead
        self.registry: Registry = Registry(
            cache=HostPath(f"{locations.run_root}/drivers.json"),
            degraded=HostPath(f"{locations.run_root}/degraded"),
            calls=HostPath(f"{locations.run_root}/calls"),
        )
        self._sets: dict[tuple[str, ...], DriverSet] = {}
        self._single: dict[tuple[str, str], Driver] = {}

    @cached_property
    def host(self) -> Host:
        """The host as drivers' probes see it."""
        return host_at(self.locations.root, self.locations.run_root)

    @cached_property
    def configured(self) -> dict[str, str]:
        """The drivers named in the configuration file."""
        return choice.read_config(self.environ)

    @property
    def survey_cache(self) -> HostPath:
        """Where what probing all drivers found is kept; see `choice.survey`."""
        return HostPath(f"{self.locations.run_root}/defaults.json")

    @cached_property
    def images(self) -> ImageStore:
        """The image store."""
        from plugengine.images.store import ImageStore

        return ImageStore(self.locations.root, self.state, registry=self.registry)

    def choose(self, spec: ContainerSpec) -> DriverChoice:
        """Return the drivers of a new container."""
        return choice.choose(self.registry, self.host, spec, self.configured, cache=self.survey_cache)

    def drop_spare(self) -> None:
        """Let the monitor that was forked ahead go, if there is one."""
        if self.spare is not None:
            self.spare.close()
            self.spare = None

    def missing(self, chosen: DriverChoice) -> tuple[str, ...]:
        """Return those of a container's drivers that were uninstalled since, as "storage driver NAME"."""
        return tuple(
            f"{kind} driver {name}"
            for kind in KINDS
            if (name := getattr(chosen, kind)) not in self.registry.names(kind)
        )

    def driver_of(self, chosen: DriverChoice, kind: str) -> Driver:
        """Return one of a container's drivers alone, whatever has become of the others.

        Raises:
            NotFoundError, ConflictError, DriverLoadError: It was uninstalled, is offered twice, or is broken.
        """
        name = getattr(chosen, kind)
        if (kind, name) not in self._single:
            self._single[kind, name] = open_driver(self.registry, kind, name)
        return self._single[kind, name]

    @cached_property
    def observe(self) -> Callable[..., Any] | None:
        """The observers, for what is not done through the drivers of a container; None where there are none."""
        return open_observers(self.registry)

    def drivers(self, chosen: DriverChoice) -> DriverSet:
        """Return exactly these drivers in a plugin manager of their own, made once in a process."""
        names = (chosen.storage, chosen.network, chosen.cgroup, chosen.namespace, chosen.runtime)
        found = self._sets.get(names)
        if found is None:
            found = DriverSet(
                self.registry,
                storage=chosen.storage,
                network=chosen.network,
                cgroup=chosen.cgroup,
                namespace=chosen.namespace,
                runtime=chosen.runtime,
            )
            self._sets[names] = found
        return found
