"""Find what should not be there, in the state and on the host, and with repair remove it."""

from __future__ import annotations

import os
from typing import cast

from plugengine import volumes
from plugengine.bundle import RuntimeStatus
from plugengine.containers.requests import runtime_request
from plugengine.errors import NotFoundError, PlugengineError
from plugengine.model import HostPath
from plugengine.networks import networks
from plugengine.operations.collection import broken, collect, gc
from plugengine.operations.recovery import Finding
from plugengine.plugins.drivers import RuntimeDriver
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE
from plugengine.trees import upper


def check(site: Site, *, repair: bool) -> list[Finding]:
    """Return what should not be there; with repair, it is gone afterwards."""
    from plugengine.state import rescue

    findings = [Finding(what=line, repaired=repair) for line in rescue.check(site.state, repair=repair)]
    if findings and not repair:
        return findings  # what else is wrong can't be told from a damaged database
    findings += _recovered(site) if repair else _to_recover(site)
    findings += _otherwise_by_runtime(site)
    findings += _stray_directories(site, repair=repair)
    findings += _lost_directories(site)
    findings += _image_findings(site, repair=repair)
    findings += [
        Finding(what=line, repaired=repair) for line in volumes.check(site.state, site.locations, repair=repair)
    ]
    if repair:
        findings += collect(site)
        findings += [Finding(what=line, repaired=False) for line in networks.repair(site)]
        site.registry.calls.forget()
    return findings + broken(site)


def _to_recover(site: Site) -> list[Finding]:
    lines = [
        f"container {row.name}: is {row.status}, but its owner is gone" for row in container_rows.abandoned(site.state)
    ]
    lines += [
        f"container {row.name}: is dead, it could not be removed: {row.state.error}"
        for row in container_rows.list_all(site.state, ("dead",))
    ]
    return [Finding(what=line, repaired=False) for line in lines]


def _recovered(site: Site) -> list[Finding]:
    """Recover what has no owner and try again to remove what is dead, all at once; wait for the last one."""
    from plugengine.operations.recovery_worker import reports, start

    if not container_rows.abandoned(site.state) and not container_rows.list_all(site.state, ("dead",)):
        return []
    with start(site, dead=True) as channel:
        return [report.finding for report in reports(channel) if report.finding is not None]


def _otherwise_by_runtime(site: Site) -> list[Finding]:
    """Return the containers that run, while their runtime says they do not; whoever ends in this moment is none."""
    findings: list[Finding] = []
    for row in container_rows.list_all(site.state, LIVE):
        record = row.records.get("runtime")
        if record is None:
            continue  # started before it was kept
        try:
            said = cast(RuntimeDriver, site.driver_of(row.choice, "runtime")).state(runtime_request(site, row), record)
            now = container_rows.get(site.state, row.id)
        except NotFoundError:
            continue
        except PlugengineError as exc:
            findings.append(Finding(what=f"container {row.name}: {exc.message}", repaired=False))
            continue
        if said.status is RuntimeStatus.STOPPED and now.status in LIVE:
            what = f"container {row.name}: is {row.status}, but runtime driver {row.choice.runtime} says stopped"
            findings.append(Finding(what=what, repaired=False))
    return findings


def _image_findings(site: Site, *, repair: bool) -> list[Finding]:
    found = site.images.check(repair=repair)
    left = set(site.images.check(repair=False)) if repair and found else set(found)
    return [Finding(what=line, repaired=line not in left) for line in found]


def _stray_directories(site: Site, *, repair: bool) -> list[Finding]:
    valid = container_rows.ids(site.state)
    known = {site.locations.container(each) for each in valid} | {site.locations.run(each) for each in valid}
    findings: list[Finding] = []
    for path in (*_below(site.locations.containers), *_run_directories(site)):
        if path not in known:
            if repair:
                upper.remove_tree(path)
            findings.append(Finding(what=f"directory {path}: belongs to no container", repaired=repair))
    return findings


def _lost_directories(site: Site) -> list[Finding]:
    """Return the containers whose directory is gone; to remove them is for somebody who knows why it is."""
    rows = container_rows.list_all(site.state, ("created", "exited", *container_rows.LIVE))
    lost = [(row, path) for row in rows if not os.path.isdir(path := site.locations.container(row.id))]
    return [
        Finding(what=f"container {row.name}: its directory {path} is gone; remove it: pe rm {row.name}", repaired=False)
        for row, path in lost
    ]


def _run_directories(site: Site) -> list[HostPath]:
    """Return this engine's run directories; others may share the run root."""
    prefix = site.locations.run_prefix
    return [path for path in _below(site.locations.run_containers) if os.path.basename(path).startswith(prefix)]


def _below(directory: HostPath) -> list[HostPath]:
    return [HostPath(os.path.join(directory, name)) for name in sorted(os.listdir(directory))]


def follow_removed_layers(site: Site) -> None:
    """Let storage drivers drop what they made of layers that are gone; what fails is left to `check`."""
    try:
        names = os.listdir(site.locations.shared)
    except FileNotFoundError:
        return
    for name in sorted(set(names) & set(site.registry.names("storage"))):
        try:
            gc(site, "storage", name)
        except PlugengineError:
            continue


def reset(site: Site) -> None:
    """Stop and remove everything below the roots; see `Engine.reset`."""
    from plugengine.operations.remove import remove

    for row in container_rows.list_all(site.state):
        remove(site, row, force=True, with_volumes=True)
    collect(site)
    site.state.close()
    upper.remove_tree(site.locations.root)
    for path in _run_directories(site):
        upper.remove_tree(path)
    if not os.listdir(site.locations.run_containers):
        upper.remove_tree(site.locations.run_root)
