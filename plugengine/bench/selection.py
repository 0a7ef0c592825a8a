"""What a run is to measure: names checked with the near miss, options of drivers, and the state of each driver here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from plugengine.bench.results import Column
from plugengine.errors import NotFoundError, UsageError
from plugengine.plugins.registry import Registry
from plugengine.state.names import known_names

if TYPE_CHECKING:
    from plugengine.engine import Engine
    from plugengine.plugins.probing import DriverStatus

DriverOptions = Mapping[str, Mapping[str, str]]
"""By driver: name to value."""


def check_names(what: str, given: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names given, each once; all known ones for none.

    Args:
        what: For the message, "workload".
        given: What was asked for.
        known: What there is.

    Raises:
        NotFoundError: There is none of that name; the hint has the near miss.
    """
    names = tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise NotFoundError(f"{what} {name}: there is none", hint=known_names("there are", name, known))
    return names or tuple(known)


def check_drivers(registry: Registry, kind: str, given: Iterable[str]) -> tuple[str, ...]:
    """Return the drivers given, each once; all installed ones for none. Raises: NotFoundError, ConflictError."""
    names = tuple(dict.fromkeys(given))
    for name in names:
        registry.find(kind, name)
    return names or registry.names(kind)


def check_options(registry: Registry, kinds: Sequence[str], options: DriverOptions) -> None:
    """Raise for options of drivers that are not installed, or that the driver does not have."""
    from plugengine.plugins.choice import check_options as check
    from plugengine.plugins.drivers import open_driver

    for name, given in options.items():
        kind = next((kind for kind in kinds if name in registry.names(kind)), None)
        if kind is None:
            check_names("--option: driver", [name], [known for kind in kinds for known in registry.names(kind)])
            continue
        check(open_driver(registry, kind, name), given)


def parse_options(words: Iterable[str]) -> dict[str, dict[str, str]]:
    """Read DRIVER:NAME=VALUE. Raises: UsageError."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        driver, colon, rest = word.partition(":")
        name, equals, value = rest.partition("=")
        if not (driver and colon and name and equals):
            raise UsageError(f"--option {word}: not DRIVER:NAME=VALUE", hint="for example --option vfs:reflink=off")
        found.setdefault(driver, {})[name] = value
    return found


def statuses(engine: Engine, kind: str) -> dict[str, DriverStatus]:
    """Return the installed drivers of a kind by name, as they are with the roots of this engine."""
    return {each.name: each for each in engine.drivers.list() if each.kind == kind}


def column(engine: Engine, status: DriverStatus, options: DriverOptions) -> Column:
    """Return the column of one driver; it has a reason if the driver cannot be measured here."""
    given = dict(options.get(status.name, {}))
    return Column(
        name=status.name,
        version=status.version,
        distribution=status.distribution,
        options=given,
        reason=_reason(engine, status, given),
    )


def _reason(engine: Engine, status: DriverStatus, given: Mapping[str, str]) -> str:
    if not status.supported:
        return "; ".join(status.reasons) or "does not work on this host"
    from plugengine.plugins.drivers import open_driver

    info = open_driver(engine.site.registry, status.kind, status.name).info
    missing = [each for each in info.options if each.required and each.name not in given]
    return "; ".join(f"give --option {status.name}:{each.name}=…: {each.help}" for each in missing)


def network_name(engine: Engine, driver: str, options: DriverOptions) -> str:
    """Return the network to join: the driver's own, or one made for the run where it has options."""
    given = options.get(driver)
    if not given:
        return driver
    name = f"bench-{driver}"
    if all(network.name != name for network in engine.networks.list()):
        engine.networks.create(name, driver=driver, options=given)
    return name
