"""Let every driver remove what belongs to no container, each stranger's in a process of its own."""

from __future__ import annotations

import os
from typing import Final

import msgspec

from plugengine import workers
from plugengine.containers import cgroup_parents
from plugengine.errors import PlugengineError
from plugengine.networks import networks
from plugengine.operations.recovery import Finding, during
from plugengine.plugins import deadlines, probing
from plugengine.plugins.drivers import CgroupDriver, NetworkDriver, RuntimeDriver, StorageDriver, open_driver
from plugengine.plugins.probing import DriverStatus
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.locations import Locations
from plugengine.workers import Channel, Pool

_NAME: Final = b"pe-collect"
_AT_ONCE: Final = 8


def broken(site: Site) -> list[Finding]:
    """Return the plugins that cannot be used, which only who installed them can repair."""
    lines = probing.status(site.registry, site.host, site.configured, kinds=probing.ALL)
    return [Finding(what=_what(line), repaired=False, lasting=True) for line in lines if line.broken]


def _what(line: DriverStatus) -> str:
    reason = "; ".join(line.reasons)
    what = f"{line.kind} driver {line.name}"
    return reason if reason.startswith(what) else f"{what} of {line.distribution} {line.version}: {reason}"


def collect(site: Site) -> list[Finding]:
    """Have the drivers that work here collect; return a line for each thing they removed, or could not.

    Raises:
        PlugengineError: There is no room for another process.
    """
    usable = [line for line in probing.status(site.registry, site.host, site.configured) if line.supported]
    drivers = [(line.kind, line.name) for line in usable]
    words = (site.locations.root, site.locations.run_root, msgspec.json.encode(drivers).decode())
    try:
        channel = workers.start(_NAME, f"{__name__}:main", *words)
    except OSError as exc:
        raise PlugengineError(f"collect: start a process: {exc.strerror}") from exc
    with channel:
        return [msgspec.json.decode(message, type=Finding) for message in channel.messages()]


def main(channel: Channel, root: str, run_root: str, text: str) -> None:
    """Collect, in a new interpreter."""
    site = Site(Locations.from_environment({}, root=root, run_root=run_root), environ=os.environ)
    drivers = msgspec.json.decode(text, type=tuple[tuple[str, str], ...])

    def tell(finding: Finding) -> None:
        channel.send(msgspec.json.encode(finding))

    def work(group: tuple[tuple[str, str], ...]) -> None:
        for kind, name in group:
            try:
                for line in gc(site, kind, name):
                    tell(Finding(what=line, repaired=True))
            except PlugengineError as exc:
                tell(Finding(what=exc.message, repaired=False))

    groups = probing.side_by_side(drivers, lambda driver: site.registry.find(*driver).distribution)
    limit_s = deadlines.probe_s() + deadlines.seconds("storage", "gc")
    for end in Pool(work, limit_s=limit_s, at_once=_AT_ONCE).run(groups):
        if end.fault:
            names = ", ".join(f"{kind} driver {name}" for kind, name in end.task)
            what = f"{names}: the process that collected {end.fault}{during(site, end.process)}"
            tell(Finding(what=what, repaired=False))


def gc(site: Site, kind: str, name: str) -> tuple[str, ...]:
    """Let one driver remove what belongs to no container; return a line for each thing removed.

    Raises:
        PlugengineError: It failed, or cannot be used.
    """
    driver = open_driver(site.registry, kind, name)
    valid = container_rows.ids(site.state)
    if isinstance(driver, StorageDriver):
        return driver.gc(site.host, valid, site.locations.shared_by(name))
    if isinstance(driver, RuntimeDriver):
        return driver.gc(site.host, valid, site.locations.shared_by_runtime(name))
    if isinstance(driver, NetworkDriver):
        return driver.gc(site.host, networks.list_all(site, name), valid)
    if isinstance(driver, CgroupDriver):
        parents = {row.spec.cgroup_parent for row in container_rows.list_all(site.state)}
        parents |= {"plugengine", *cgroup_parents.known(site)}
        return tuple(line for parent in sorted(parents) for line in driver.gc(site.host, parent, valid))
    return ()
