"""Undo what a container whose owner died left on the host, and let its row say what became of it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct

from plugengine.containers.remove import mark_dead, remove_container, remove_half_made
from plugengine.containers.requests import cgroup_request, runtime_request
from plugengine.errors import PlugengineError
from plugengine.kernel.process import ProcessId, boot_id, open_pidfd
from plugengine.networks import connections, ipam, networks, ports
from plugengine.plugins.drivers import CgroupDriver, NetworkDriver, RuntimeDriver, StorageDriver
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow

_END_S: Final = 5.0
_KILLED: Final = 128 + signal.SIGKILL


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that should not be there."""

    what: str
    repaired: bool
    lasting: bool = False  # no repair helps; somebody has to do something about it
    culprit: str = ""  # the hook of a plugin in which a process ended, if that is what led to it


def during(site: Site, process: ProcessId | None) -> str:
    """Return " during …" if a process ended in the hook of a plugin, else nothing; for the end of a sentence."""
    hook = site.registry.calls.take(process)
    return f" during {hook}" if hook else ""


def recover(site: Site, row: ContainerRow) -> Finding:
    """Recover a container this process has claimed; see `container_rows.claim`.

    What was being made or removed is removed; what ran has ended. Every step is tried, whatever the one before it came
    to. It waits for drivers as long as their deadlines allow.
    """
    ended_in = during(site, row.owner)
    why = f"its owner ended{ended_in}" if ended_in else "its owner was killed"
    if row.boot_id != boot_id():
        why = "the host was restarted"
    problems: list[str] = []
    if row.status in ("starting", *container_rows.LIVE):
        why = why.replace("owner", "monitor")
        problems = take_back(site, row)
    finding = _settle(site, row, why, problems)
    return msgspec.structs.replace(finding, culprit=ended_in.removeprefix(" during "))


def _settle(site: Site, row: ContainerRow, why: str, problems: Sequence[str]) -> Finding:
    if row.status == "creating":
        if left := remove_half_made(site, row, _storage(site, row)):
            return _finding(row, why, f"could not be removed: {left}", repaired=False)
        return _finding(row, why, "removed")
    if row.status in ("removing", "dead") or row.spec.auto_remove:
        return _remove(site, row, why, problems)
    status = record_end(site, row, why, problems)
    return _finding(row, why, "; ".join([f"now {status}", *problems]), repaired=not problems)


def give_up(site: Site, row: ContainerRow, owner: ProcessId, why: str) -> Finding | None:
    """Let the row say that its recovery, at which `owner` was until it was killed, came to nothing."""
    me = ProcessId.of(os.getpid())
    if me is None or not container_rows.change_owner(site.state, row, owner, me):
        return None  # somebody else has taken it over, or it is gone
    if row.status in ("starting", *container_rows.LIVE) and not row.spec.auto_remove:
        record_end(site, row, "its monitor was killed", [why])
    else:
        mark_dead(site, row, why)
    return Finding(what=f"container {row.name}: was {row.status}; {why}", repaired=False)


def take_back(site: Site, row: ContainerRow) -> list[str]:
    """End what is left of a container, and undo what its drivers made for this run; return what went wrong."""
    rebooted = row.boot_id != boot_id()
    if not rebooted:
        for pid, started in ((row.state.pid, row.state.pid_start), (row.state.server_pid, row.state.server_start)):
            _end_process(pid, started)
    problems: list[str] = []
    for undo in (_take_back_runtime, _take_back_cgroup, _take_back_network):
        try:
            undo(site, row, rebooted=rebooted)
        except (PlugengineError, OSError) as exc:
            problems.append(str(exc))
    shutil.rmtree(site.locations.run(row.id), ignore_errors=True)
    return problems


def record_end(site: Site, row: ContainerRow, why: str, problems: Sequence[str] = ()) -> str:
    """Let the row of a container that was starting or running say that it does not any more; return its status."""
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
        error="; ".join([f"{why}; the container was ended with it", *problems]),
        finished_ns=time.time_ns() if was_up else row.state.finished_ns,
    )
    records = container_rows.lasting_records(row)
    status = "exited" if was_up or row.state.started_ns else "created"
    container_rows.update(site.state, row.id, status=status, container_state=state, records=records, owner=None)
    return status


def _remove(site: Site, row: ContainerRow, why: str, problems: Sequence[str]) -> Finding:
    with_volumes = row.spec.auto_remove or bool(row.records.get("remove_volumes"))
    try:
        remove_container(site, row, _storage(site, row), with_volumes=with_volumes, observe=site.observe)
    except (PlugengineError, OSError) as exc:
        mark_dead(site, row, str(exc))
        return _finding(row, why, "; ".join([f"could not be removed: {exc}", *problems]), repaired=False)
    return _finding(row, why, "; ".join(["removed", *problems]), repaired=not problems)


def _finding(row: ContainerRow, why: str, what: str, *, repaired: bool = True) -> Finding:
    before = "" if row.status == "dead" else f", {why}"
    return Finding(what=f"container {row.name}: was {row.status}{before}; {what}", repaired=repaired)


def _storage(site: Site, row: ContainerRow) -> StorageDriver | None:
    """Return the storage driver; None when it was uninstalled or is broken."""
    try:
        return cast(StorageDriver, site.driver_of(row.choice, "storage"))
    except PlugengineError:
        return None


def _take_back_runtime(site: Site, row: ContainerRow, *, rebooted: bool) -> None:  # noqa: ARG001 - nor files it keeps
    driver = cast(RuntimeDriver, site.driver_of(row.choice, "runtime"))
    driver.delete(runtime_request(site, row), row.records.get("runtime"))


def _take_back_cgroup(site: Site, row: ContainerRow, *, rebooted: bool) -> None:
    driver = cast(CgroupDriver, site.driver_of(row.choice, "cgroup"))
    request, record = cgroup_request(site, row), row.records.get("cgroup")
    if not rebooted:
        driver.kill(request, record)
    driver.remove(request, record)


def _take_back_network(site: Site, row: ContainerRow, *, rebooted: bool) -> None:  # noqa: ARG001 - rules outlive none
    connection = connections.connection_of(site, row)
    if connection is None:
        return
    driver = cast(NetworkDriver, site.driver_of(row.choice, "network"))
    driver.detach(*connection)
    # Not before: a rule that is left would lead to whoever gets the address, or stand in the way of a port.
    ipam.release(site.state, row.id)
    ports.release(site.state, row.id)
    networks.remove_if_idle(site, connection[0].network, driver)


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
