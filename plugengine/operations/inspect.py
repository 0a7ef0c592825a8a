"""Look at containers: everything here reads, and reads on the host's side only."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import cast

import msgspec
from msgspec import Struct

from plugengine.containers.placement import PlacedMount
from plugengine.containers.requests import storage_request
from plugengine.errors import ConflictError, NotFoundError, PlugengineError
from plugengine.model import Attachment, CgroupStats, Change, NetworkStats, Port, Usage, UserMap
from plugengine.networks import connections
from plugengine.objects import Connection, Container, ContainerStats, LiveNetwork, MountPoint, NetworkDetails
from plugengine.plugins.drivers import CgroupDriver, NetworkDriver, StorageDriver
from plugengine.site import Site
from plugengine.spec import ImageConfig
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE, ContainerRow
from plugengine.streams.logs import LogFollower, LogLine, read_lines

_LOOK_S = 0.2  # between looks at whether a container runs whose log is followed; what is logged is seen at once


class ProcessLine(Struct, frozen=True, kw_only=True):
    """One process of a container, as the host sees it."""

    user: str
    pid: int
    ppid: int
    cpu_percent: float
    start: str  # HH:MM
    tty: str
    cpu_time: str  # HH:MM:SS
    command: str


def read_log(site: Site, row: ContainerRow, *, tail: int | None, follow: bool) -> Iterator[LogLine]:
    """Yield the log; see `engine.containers.logs`."""
    path = site.locations.log(row.id)
    if not follow:
        yield from read_lines(path, tail=tail)
        return
    with closing(LogFollower(path, tail=tail)) as follower:
        while True:
            # Looked at before reading: what was written until the end is then surely read.
            running = _is_live(site, row.id)
            yield from follower.lines()
            if not running:
                return
            follower.wait(_LOOK_S)


def _is_live(site: Site, container_id: str) -> bool:
    try:
        return container_rows.get(site.state, container_id).status in (*LIVE, "starting")
    except NotFoundError:
        return False


def attachment_of(row: ContainerRow) -> Attachment | None:
    """Return a container's connection, or None."""
    stored = (row.records.get("network") or {}).get("attachment")
    return msgspec.convert(stored, Attachment) if stored else None


def ports(row: ContainerRow) -> tuple[Port, ...]:
    """Return the published ports of a running container."""
    attachment = attachment_of(row)
    return attachment.ports if attachment else ()


def mounts_of(row: ContainerRow) -> tuple[PlacedMount, ...]:
    """Return the mounts of a container."""
    return msgspec.convert(row.records.get("mounts") or (), tuple[PlacedMount, ...])


def containers_of(site: Site, image_id: str) -> list[str]:
    """Return the names of the containers made from an image."""
    return [row.name for row in container_rows.list_all(site.state) if row.image_id == image_id]


def changes(site: Site, row: ContainerRow) -> Iterable[Change]:
    """Return the differences to the image; see `engine.containers.changes`."""
    from plugengine.containers import rootfs_view

    return rootfs_view.changes(site, row)


def usage(site: Site, row: ContainerRow) -> Usage:
    """Return the space of the writable layer; see `engine.containers.usage`."""
    record = row.records.get("storage")
    if record is None:
        raise ConflictError(f"container {row.name}: is {row.status}, and has no writable layer")
    driver = cast(StorageDriver, site.driver_of(row.choice, "storage"))
    return driver.usage(storage_request(site, row, row.records), record)


def stats(site: Site, row: ContainerRow) -> ContainerStats:
    """Return the use of resources; see `engine.containers.stats`."""
    record = row.records.get("cgroup")
    if row.status not in LIVE or record is None:
        raise ConflictError(f"container {row.name}: is not running")
    problems: list[str] = []
    cgroup, network = CgroupStats(), None
    try:
        cgroup = cast(CgroupDriver, site.driver_of(row.choice, "cgroup")).stats(record)
    except PlugengineError as exc:
        problems.append(exc.message)
    try:
        network = _network_stats(site, row)
    except ConflictError:
        raise
    except PlugengineError as exc:
        problems.append(exc.message)
    return ContainerStats(cgroup=cgroup, network=network, problems=tuple(problems))


def _network_stats(site: Site, row: ContainerRow) -> NetworkStats:
    request, attachment = connections.connection_of(site, row) or (None, None)
    if request is None or attachment is None or not attachment.interfaces:
        return NetworkStats()
    try:
        netns = os.open(f"/proc/{row.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConflictError(f"container {row.name}: has just ended") from None
    try:
        driver = cast(NetworkDriver, site.driver_of(row.choice, "network"))
        return driver.stats(msgspec.structs.replace(request, netns=netns), attachment)
    finally:
        os.close(netns)


def driver_stats(site: Site, row: ContainerRow) -> dict[str, int]:
    """Return counters of the storage driver's server; see `engine.containers.driver_stats`."""
    if row.status not in LIVE or not row.state.server_pid:
        return {}
    try:
        driver = cast(StorageDriver, site.driver_of(row.choice, "storage"))
        return driver.stats(storage_request(site, row, row.records), row.records["storage"])
    except PlugengineError:
        return {}  # a driver that is gone or broken is no reason not to show the rest


def processes(site: Site, row: ContainerRow) -> list[ProcessLine]:
    """Return the processes; see `engine.containers.top`."""
    record = row.records.get("cgroup")
    if row.status not in LIVE or record is None:
        raise ConflictError(f"container {row.name}: is not running")
    lines = (_process_line(pid) for pid in cast(CgroupDriver, site.driver_of(row.choice, "cgroup")).pids(record))
    return sorted((line for line in lines if line is not None), key=lambda line: line.pid)


def _process_line(pid: int) -> ProcessLine | None:
    """Read one process from /proc; see proc_pid_stat(5). None when it has just ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            text = stream.read()
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            arguments = stream.read()
        uid = os.stat(f"/proc/{pid}").st_uid
        with open("/proc/uptime", encoding="ascii") as stream:
            uptime = float(stream.read().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None
    import time

    name = text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "replace")
    fields = text[text.rindex(b")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[11]) + int(fields[12])) / ticks
    age = max(uptime - int(fields[19]) / ticks, 0.01)
    command = arguments.replace(b"\0", b" ").decode("utf-8", "replace").strip() or f"[{name}]"
    return ProcessLine(
        user=_user_name(uid),
        pid=pid,
        ppid=int(fields[1]),
        cpu_percent=round(100 * used / age, 1),
        start=time.strftime("%H:%M", time.localtime(time.time() - age)),
        tty=_tty_name(int(fields[4])),
        cpu_time=f"{int(used) // 3600:02}:{int(used) % 3600 // 60:02}:{int(used) % 60:02}",
        command=command,
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tty_name(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + (major - 136) * 256}" if 136 <= major <= 143 else "?"


def container(site: Site, row: ContainerRow) -> Container:
    """Return a row as the library hands it out."""
    records = row.records
    connection = connections.connection_of(site, row)
    attachment = connection[1] if connection is not None else None
    files = {each: site.locations.etc(row.id, each) for each in ("hosts", "hostname", "resolv.conf")}
    return Container(
        id=row.id,
        name=row.name,
        status=row.status,
        recovering=container_rows.is_being_recovered(row),
        created_ns=row.created_ns,
        image_id=row.image_id,
        image_name=row.image_name,
        spec=row.spec,
        drivers=row.choice,
        config=msgspec.convert(records.get("config") or {}, ImageConfig),
        state=row.state,
        mounts=msgspec.convert(records.get("mounts") or (), tuple[MountPoint, ...]),
        connections=(Connection(network=connection[0].network.name, attachment=attachment),)
        if connection is not None and attachment is not None and row.status in LIVE
        else (),
        user_map=msgspec.convert(records["user_map"], UserMap) if records.get("user_map") else None,
        files={"log": site.locations.log(row.id), **files},
        records={
            kind: records[kind] for kind in ("storage", *container_rows.RUN_RECORDS) if records.get(kind) is not None
        },
    )


def network(site: Site, name: str) -> NetworkDetails:
    """Return a network and the running containers on it; see `engine.networks.get`."""
    from plugengine.networks import ipam

    stored = ipam.get_network(site.state, name)
    members = [container(site, row) for row in container_rows.list_all(site.state, LIVE) if row.choice.joins == name]
    return NetworkDetails(
        network=stored.network,
        record=stored.record,
        containers=tuple(each for each in members if any(name == one.network for one in each.connections)),
    )


def live_network(details: NetworkDetails) -> LiveNetwork:
    """Return what the kernel has of a network; see `engine.networks.live`."""
    from plugengine.networks import live

    names = {text for text in (details.record or {}).values() if isinstance(text, str)}
    for each in details.containers:
        for one in each.connections:
            if one.network == details.network.name:
                names |= {interface.host_name for interface in one.attachment.interfaces if interface.host_name}
    return live.look(names)
