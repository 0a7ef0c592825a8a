"""Look at containers: everything here reads, and reads on the host's side only."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from plugengine.containers.create import PlacedMount, storage_request
from plugengine.errors import ConflictError, NotFoundError, PlugengineError
from plugengine.model import Attachment, CgroupStats, Change, NetworkStats, Port, Usage, encode
from plugengine.site import Site
from plugengine.spec import ImageConfig, command_line
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE, ContainerRow
from plugengine.streams.logs import LogFollower, LogLine, read_lines, timestamp


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
    follower = LogFollower(path, tail=tail)
    yield from follower.first()
    while True:
        # Looked at before reading: what was written until the end is then surely read.
        running = _is_live(site, row.id)
        yield from follower.more()
        if not running:
            return


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
    drivers = site.drivers(row.choice)
    return drivers.storage.usage(storage_request(site, row, row.records), row.records["storage"])


def stats(site: Site, row: ContainerRow) -> tuple[CgroupStats, NetworkStats]:
    """Return the use of resources; see `engine.containers.stats`."""
    record = row.records.get("cgroup")
    if row.status not in LIVE or record is None:
        raise ConflictError(f"container {row.name}: is not running")
    drivers = site.drivers(row.choice)
    attachment = attachment_of(row)
    network = NetworkStats()
    if attachment is not None and attachment.interfaces:
        try:
            netns = os.open(f"/proc/{row.state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ConflictError(f"container {row.name}: has just ended") from None
        try:
            network = drivers.network.stats(attachment, netns)
        finally:
            os.close(netns)
    return drivers.cgroup.stats(record), network


def driver_stats(site: Site, row: ContainerRow) -> dict[str, int]:
    """Return counters of the storage driver's server; see `engine.containers.driver_stats`."""
    if row.status not in LIVE or not row.state.server_pid:
        return {}
    try:
        drivers = site.drivers(row.choice)
        return drivers.storage.stats(storage_request(site, row, row.records), row.records["storage"])
    except PlugengineError:
        return {}  # a driver that is gone or broken is no reason not to show the rest


def processes(site: Site, row: ContainerRow) -> list[ProcessLine]:
    """Return the processes; see `engine.containers.top`."""
    record = row.records.get("cgroup")
    if row.status not in LIVE or record is None:
        raise ConflictError(f"container {row.name}: is not running")
    lines = (_process_line(pid) for pid in site.drivers(row.choice).cgroup.pids(record))
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


def inspect(site: Site, row: ContainerRow) -> dict[str, Any]:
    """Return everything about a container; see `engine.containers.inspect`."""
    spec, config = row.spec, msgspec.convert(row.records.get("config") or {}, ImageConfig)
    command = command_line(spec, config)
    argv = [*command.argv] or [""]
    return {
        "Id": row.id,
        "Created": timestamp(row.created_ns),
        "Path": argv[0],
        "Args": argv[1:],
        "State": _state(row),
        "Image": row.image_id,
        "Name": f"/{row.name}",
        "RestartCount": row.state.restart_count,
        "LogPath": site.locations.log(row.id),
        "ResolvConfPath": site.locations.etc(row.id, "resolv.conf"),
        "HostnamePath": site.locations.etc(row.id, "hostname"),
        "HostsPath": site.locations.etc(row.id, "hosts"),
        "Drivers": encode(row.choice),
        "DriverRecords": {key: row.records.get(key) for key in ("storage", "cgroup", "network")},
        "DriverStats": driver_stats(site, row),
        "MissingDrivers": list(site.missing(row.choice)),
        "UserMap": row.records.get("user_map"),
        "Warnings": list(row.state.warnings),
        "HostConfig": _host_config(row),
        "Mounts": [_mount(mount) for mount in mounts_of(row)],
        "Config": {
            "Hostname": spec.hostname or row.id[:12],
            "Domainname": spec.domainname or "",
            "User": spec.user if spec.user is not None else config.user,
            "AttachStdin": spec.interactive,
            "Tty": spec.tty,
            "OpenStdin": spec.interactive,
            "Env": [*config.env, *spec.env],
            "Cmd": list(command.cmd) or None,
            "Image": row.image_name,
            "Volumes": {path: {} for path in config.volumes} or None,
            "WorkingDir": spec.working_dir or config.working_dir,
            "Entrypoint": list(command.entrypoint) or None,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Labels": {**config.labels, **spec.labels},
            "StopSignal": spec.stop_signal or config.stop_signal or "SIGTERM",
            "StopTimeout": spec.stop_timeout_s,
        },
        "NetworkSettings": _network_settings(row),
    }


def _state(row: ContainerRow) -> dict[str, Any]:
    state = row.state
    return {
        "Status": row.status,
        "Running": row.status in LIVE,
        "Paused": row.status == "paused",
        "Restarting": False,
        "OOMKilled": state.oom_killed,
        "Dead": row.status == "dead",
        "Pid": state.pid,
        "MonitorPid": state.monitor_pid,
        "ServerPid": state.server_pid,
        "ExitCode": state.exit_code or 0,
        "Error": state.error,
        "StartedAt": timestamp(state.started_ns),
        "FinishedAt": timestamp(state.finished_ns),
    }


def _mount(mount: PlacedMount) -> dict[str, Any]:
    return {
        "Type": mount.type,
        "Name": mount.name,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation if mount.type == "bind" else "",
    }


def _host_config(row: ContainerRow) -> dict[str, Any]:
    spec, limits = row.spec, row.spec.limits
    return {
        "NetworkMode": spec.modes.get("net") or row.choice.joins,
        "PidMode": _mode(spec.modes, "pid"),
        "IpcMode": _mode(spec.modes, "ipc") or "private",
        "UTSMode": _mode(spec.modes, "uts"),
        "CgroupnsMode": _mode(spec.modes, "cgroup") or "private",
        "UsernsMode": spec.userns,
        "PortBindings": encode(spec.ports),
        "AutoRemove": spec.auto_remove,
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "Dns": list(spec.dns),
        "ExtraHosts": list(spec.extra_hosts) or None,
        "GroupAdd": list(spec.groups) or None,
        "ShmSize": spec.shm_size_bytes,
        "Sysctls": dict(spec.sysctls) or None,
        "OomScoreAdj": spec.oom_score_adj or 0,
        "Memory": limits.memory_bytes or 0,
        "MemorySwap": limits.memory_swap_bytes or 0,
        "MemoryReservation": limits.memory_reservation_bytes or 0,
        "CpuQuota": limits.cpu_quota_us or 0,
        "CpuPeriod": limits.cpu_period_us if limits.cpu_quota_us else 0,
        "CpuShares": limits.cpu_shares or 0,
        "CpusetCpus": limits.cpuset_cpus or "",
        "PidsLimit": limits.pids,
        "BlkioWeight": limits.blkio_weight or 0,
        "BlkioDeviceReadBps": encode(limits.read_bps),
        "BlkioDeviceWriteBps": encode(limits.write_bps),
        "BlkioDeviceReadIOps": encode(limits.read_iops),
        "BlkioDeviceWriteIOps": encode(limits.write_iops),
        "Ulimits": encode(spec.rlimits),
        "CgroupParent": spec.cgroup_parent,
    }


def _mode(modes: Mapping[str, str], name: str) -> str:
    mode = modes.get(name, "")
    return "" if mode == "private" else mode


def inspect_network(site: Site, name: str) -> dict[str, Any]:
    """Return everything about a network; see `engine.networks.inspect`."""
    from plugengine.networks import ipam

    stored = ipam.get_network(site.state, name)
    network = stored.network
    config = {"Subnet": network.subnet, "Gateway": network.gateway, "IPRange": network.ip_range}
    containers = {
        row.id: {"Name": row.name, **_endpoint(attachment)}
        for row in container_rows.list_all(site.state, LIVE)
        if row.choice.joins == name and (attachment := attachment_of(row)) is not None
    }
    return {
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPAM": {"Config": [{key: value for key, value in config.items() if value}] if network.subnet else []},
        "Options": dict(network.options),
        "Containers": containers,
        "DriverRecord": stored.record,
    }


def _endpoint(attachment: Attachment) -> dict[str, str]:
    first = next(iter(attachment.interfaces), None)
    return {
        "IPv4Address": first.addresses[0] if first and first.addresses else "",
        "MacAddress": (first.mac if first else None) or "",
    }


def _network_settings(row: ContainerRow) -> dict[str, Any]:
    attachment = attachment_of(row)
    if attachment is None:
        return {"Networks": {}, "Ports": {}, "IPAddress": "", "Gateway": "", "MacAddress": ""}
    published: dict[str, list[dict[str, str]]] = {}
    for port in attachment.ports:
        published.setdefault(f"{port.guest_port}/{port.protocol}", []).append(
            {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port)}  # noqa: S104 - docker's words
        )
    address, _, length = "", "", ""
    mac = ""
    for interface in attachment.interfaces[:1]:
        mac = interface.mac or ""
        if interface.addresses:
            address, _, length = interface.addresses[0].partition("/")
    endpoint = {
        "IPAddress": address,
        "IPPrefixLen": int(length or 0),
        "Gateway": attachment.gateway or "",
        "MacAddress": mac,
    }
    network = (row.records.get("network") or {}).get("network") or {}
    return {
        **endpoint,
        "Ports": published,
        "Networks": {str(network.get("name", row.choice.joins)): endpoint},
        "Interfaces": encode(attachment.interfaces),
    }
