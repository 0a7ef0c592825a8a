"""Mend what killed processes, a crash or a reboot left behind, and say what it was."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from plugengine import volumes
from plugengine.containers.remove import remove_container, remove_half_made
from plugengine.errors import PlugengineError
from plugengine.kernel.process import ProcessId, boot_id, is_alive, open_pidfd
from plugengine.model import CgroupRequest, HostPath
from plugengine.networks import ipam, networks
from plugengine.operations.inspect import attachment_of
from plugengine.operations.lifecycle import usable_drivers
from plugengine.plugins.drivers import CLASSES, CgroupDriver, DriverSet, NetworkDriver, StorageDriver, open_driver
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.trees import upper

_END_S: Final = 5.0
_KILLED: Final = 128 + signal.SIGKILL


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that should not be there."""

    what: str
    repaired: bool


def mend_dead(site: Site, rows: Iterable[ContainerRow]) -> list[Finding]:
    """Take back what containers left whose owner died; those of living owners are not touched."""
    findings: list[Finding] = []
    for row in rows:
        if _abandoned(row) and _claim(site, row):
            try:
                findings.append(_mend(site, row))
            except (PlugengineError, OSError) as exc:
                findings.append(Finding(what=f"container {row.name} ({row.status}): {exc}", repaired=False))
    return findings


def _abandoned(row: ContainerRow) -> bool:
    return row.boot_id != boot_id() or row.owner is None or not is_alive(row.owner)


def _claim(site: Site, row: ContainerRow) -> bool:
    """Become the owner, unless somebody else was faster."""
    me = ProcessId.of(os.getpid())
    return me is not None and container_rows.change_owner(site.state, row, row.owner, me)


def _mend(site: Site, row: ContainerRow) -> Finding:
    drivers = usable_drivers(site, row)
    why = "the host was restarted" if row.boot_id != boot_id() else "its monitor was killed"
    if row.status == "creating":
        remove_half_made(site, row, drivers)
        return Finding(what=f"container {row.name}: was creating, {why}; removed", repaired=True)
    if row.status != "removing":
        _take_back(site, row, drivers, rebooted=row.boot_id != boot_id())
    if row.status == "removing" or row.spec.auto_remove:
        with_volumes = row.spec.auto_remove or bool(row.records.get("remove_volumes"))
        remove_container(site, row, drivers, with_volumes=with_volumes)
        return Finding(what=f"container {row.name}: was {row.status}, {why}; removed", repaired=True)
    was_up = row.status != "starting"
    state = msgspec.structs.replace(
        row.state,
        pid=0,
        pid_start=0,
        monitor_pid=0,
        monitor_start=0,
        server_pid=0,
        server_start=0,
        exit_code=_KILLED if was_up else row.state.exit_code,
        error=f"{why}; the container was ended with it",
        finished_ns=time.time_ns() if was_up else row.state.finished_ns,
    )
    records = {key: value for key, value in row.records.items() if key not in ("cgroup", "network")}
    status = "exited" if was_up or row.state.started_ns else "created"
    container_rows.update(site.state, row.id, status=status, container_state=state, records=records, owner=None)
    return Finding(what=f"container {row.name}: was {row.status}, {why}; now {status}", repaired=True)


def _take_back(site: Site, row: ContainerRow, drivers: DriverSet | None, *, rebooted: bool) -> None:
    if not rebooted:
        for pid, started in ((row.state.pid, row.state.pid_start), (row.state.server_pid, row.state.server_start)):
            _end_process(pid, started)
    if drivers is not None:
        record = row.records.get("cgroup") or drivers.cgroup.create(
            CgroupRequest(container_id=row.id, parent=row.spec.cgroup_parent, owner=site.host.root)
        )
        if not rebooted:
            drivers.cgroup.kill(record)
        drivers.cgroup.remove(record)
        network = networks.of_container(site, row)
        if network is not None:
            drivers.network.detach(network, row.id, attachment_of(row))
            ipam.release(site.state, row.id)
            networks.remove_if_idle(site, network, drivers.network)
    shutil.rmtree(site.locations.run(row.id), ignore_errors=True)


def _end_process(pid: int, started: int) -> None:
    pidfd = open_pidfd(ProcessId(pid, started)) if pid else None
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(_END_S * 1000)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def check(site: Site, *, repair: bool) -> list[Finding]:
    """Return what should not be there; with repair, it is gone afterwards."""
    from plugengine.state import rescue

    findings = [Finding(what=line, repaired=repair) for line in rescue.check(site.state, repair=repair)]
    if findings and not repair:
        return findings  # what else is wrong can't be told from a damaged database
    live = [row for row in container_rows.list_all(site.state) if row.status not in ("created", "exited")]
    if repair:
        findings += mend_dead(site, live)
    else:
        findings += [
            Finding(what=f"container {row.name}: is {row.status}, but its owner is gone", repaired=False)
            for row in live
            if _abandoned(row)
        ]
    findings += _stray_directories(site, repair=repair)
    findings += _image_findings(site, repair=repair)
    findings += [
        Finding(what=line, repaired=repair) for line in volumes.check(site.state, site.locations, repair=repair)
    ]
    if repair:
        findings += _collect(site)
        findings += [Finding(what=line, repaired=False) for line in networks.mend(site)]
    return findings


def _image_findings(site: Site, *, repair: bool) -> list[Finding]:
    found = site.images.check(repair=repair)
    left = set(site.images.check(repair=False)) if repair and found else set(found)
    return [Finding(what=line, repaired=line not in left) for line in found]


def _stray_directories(site: Site, *, repair: bool) -> list[Finding]:
    valid = container_rows.ids(site.state)
    short = {site.locations.run_name(container_id) for container_id in valid}
    findings: list[Finding] = []
    places: tuple[tuple[HostPath, Callable[[str], bool]], ...] = (
        (site.locations.containers, lambda name: name in valid),
        (site.locations.run_containers, lambda name: name in short),
    )
    for directory, known in places:
        for name in sorted(os.listdir(directory)):
            if not known(name):
                path = HostPath(os.path.join(directory, name))
                if repair:
                    upper.remove_tree(path)
                findings.append(Finding(what=f"directory {path}: belongs to no container", repaired=repair))
    return findings


def _collect(site: Site) -> list[Finding]:
    """Let every installed driver remove what belongs to no container."""
    valid = container_rows.ids(site.state)
    findings: list[Finding] = []
    for kind in CLASSES:
        for name in site.registry.names(kind):
            try:
                driver = open_driver(site.registry, kind, name)
                if driver.probe(site.host):
                    continue
                findings += [Finding(what=line, repaired=True) for line in _gc(site, driver, valid)]
            except PlugengineError as exc:
                findings.append(Finding(what=exc.message, repaired=False))
    return findings


def follow_removed_layers(site: Site) -> None:
    """Let storage drivers drop what they made of layers that are gone; what fails is left to `check`."""
    try:
        names = os.listdir(site.locations.shared)
    except FileNotFoundError:
        return
    valid = container_rows.ids(site.state)
    for name in sorted(set(names) & set(site.registry.names("storage"))):
        try:
            _gc(site, open_driver(site.registry, "storage", name), valid)
        except PlugengineError:
            continue


def _gc(site: Site, driver: object, valid: frozenset[str]) -> tuple[str, ...]:
    if isinstance(driver, StorageDriver):
        return driver.gc(site.host, valid, site.locations.shared_by(driver.name))
    if isinstance(driver, NetworkDriver):
        return driver.gc(site.host, networks.list_all(site, driver.name), valid)
    if isinstance(driver, CgroupDriver):
        parents = {row.spec.cgroup_parent for row in container_rows.list_all(site.state)} | {"plugengine"}
        return tuple(line for parent in sorted(parents) for line in driver.gc(site.host, parent, valid))
    return ()


def reset(site: Site) -> None:
    """Stop and remove everything below the roots; see `engine.system.reset`."""
    from plugengine.operations import lifecycle

    for row in container_rows.list_all(site.state):
        lifecycle.remove(site, row, force=True, with_volumes=True)
    _collect(site)
    site.state.close()
    upper.remove_tree(site.locations.root)
    upper.remove_tree(site.locations.run_root)
