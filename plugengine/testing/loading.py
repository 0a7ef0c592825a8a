"""Open the driver to be tested: an installed one by name, or any module or object with its hooks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from plugengine.errors import NotFoundError, UsageError
from plugengine.model import Deviation, Host, HostPath, Kind
from plugengine.plugins.drivers import CLASSES, Driver
from plugengine.plugins.registry import Entry, Registry, new_manager
from plugengine.site import host_at
from plugengine.state.names import known_names, near_miss
from plugengine.testing.cases import Case, cases

if TYPE_CHECKING:
    import pluggy


class Given(Registry):
    """The installed plugins, and one that need not be installed."""

    def __init__(self, kind: Kind, name: str, plugin: object) -> None:
        super().__init__()
        module = getattr(plugin, "__name__", None) or type(plugin).__module__
        self._plugin = plugin
        self._given = Entry(
            group=kind.value, name=name, value=str(module), distribution=str(module), version="(not installed)"
        )

    def entries(self, group: str) -> tuple[Entry, ...]:
        """Return every plugin of one group; the given one in place of any of its name."""
        found = super().entries(group)
        if group != self._given.group:
            return found
        return (*(entry for entry in found if entry.name != self._given.name), self._given)

    def load(self, group: str, name: str) -> Any:
        """Import a plugin, or return the given one."""
        if (group, name) == (self._given.group, self._given.name):
            return self._plugin
        return super().load(group, name)


class Tested:
    """The driver under test, opened once; every case gets it in a process of its own.

    Args:
        kind: Kind of driver.
        plugin: Name of an installed driver, or a module or object with its hooks.
        name: What to call a driver that is given as an object.

    Raises:
        NotFoundError, ConflictError, DriverLoadError: It cannot be opened.
    """

    def __init__(self, kind: Kind, plugin: object, name: str | None = None) -> None:
        self.kind = kind
        self.registry: Registry
        self.name: str
        if isinstance(plugin, str):
            self.registry, self.name = Registry(), plugin
        else:
            self.name = name or str(getattr(plugin, "__name__", type(plugin).__name__)).rpartition(".")[2]
            self.registry = Given(kind, self.name, plugin)
        self.entry: Entry = self.registry.find(kind.value, self.name)
        self.manager: pluggy.PluginManager = new_manager(self.registry, [(kind.value, self.name)])
        self.driver: Driver = CLASSES[kind.value](self.manager, self.name)
        self.deviations: dict[str, Deviation] = {
            case: declared for declared in self.driver.info.deviations for case in declared.cases
        }

    def check_deviations(self) -> None:
        """Check that every deviation is about a case there is.

        Raises:
            UsageError: It is not; the hint has the near miss.
        """
        known = [case.id for case in cases(self.kind)]
        for name in sorted(set(self.deviations) - set(known)):
            hint = near_miss(name, known) or "`pe driver test --list` shows the cases"
            raise UsageError(f"driver {self.name}: declares to deviate in {name}: no such case", hint=hint)

    def why_left_out(self, case: Case, *, quick: bool = False) -> str:
        """Return why a case is not run for this driver; empty: it is."""
        claimed = self.driver.info.capabilities
        missing = sorted(capability.value for capability in case.needs - claimed)
        if missing:
            return f"not claimed: {', '.join(missing)}"
        if case.refused is not None and case.refused in claimed:
            return f"claimed: {case.refused.value}"
        return "slow, and the run was to be quick" if quick and case.slow else ""


def kinds_of(name: str, registry: Registry) -> list[Kind]:
    """Return the kinds in which a driver of this name is installed."""
    return [kind for kind in Kind if name in registry.names(kind.value)]


def kind_of(name: str, kind: str | None = None) -> Kind:
    """Return the kind of an installed driver.

    Raises:
        NotFoundError: No driver has this name; the hint has the near miss.
        UsageError: Drivers of several kinds have this name, or there is no such kind.
    """
    if kind is not None:
        if kind not in {known.value for known in Kind}:
            raise UsageError(f"--kind {kind}: not a kind", hint=f"one of {', '.join(known.value for known in Kind)}")
        return Kind(kind)
    registry = Registry()
    found = kinds_of(name, registry)
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.value for known in found)
        raise UsageError(f"driver {name}: there is one for {names}", hint="choose with --kind")
    raise NotFoundError(f"driver {name}: not installed", hint=_near(name, registry))


def _near(name: str, registry: Registry) -> str:
    names = sorted({known for kind in Kind for known in registry.names(kind.value)})
    return known_names("installed", name, names)


def host_below(scratch: HostPath) -> Host:
    """Return a host whose roots lie below a directory; they are made here."""
    root, run_root = HostPath(f"{scratch}/root"), HostPath(f"{scratch}/run")
    for directory in (root, run_root):
        os.makedirs(directory, mode=0o711, exist_ok=True)
    return host_at(root, run_root)
