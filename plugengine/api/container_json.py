"""The JSON shape of a container in docker's API: what `docker inspect` shows and `GET /containers/ID/json` answers.

Names, types and zero values are those of docker's Engine API 1.41 and newer, so that what reads docker's answers reads
these. What only this engine has is in keys docker does not use: "Drivers", "DriverRecords" and so on. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from plugengine.bundle import Rlimit
from plugengine.model import Attachment, DeviceRate, Port, encode
from plugengine.objects import Connection, Container, MountPoint
from plugengine.security import paths
from plugengine.spec import Device, command_line, variables
from plugengine.streams.logs import timestamp

NEVER: Final = timestamp(0)
LOCAL: Final = "local"
# How docker gives a default that nobody asked for.
_NO_RESTART: Final = {"Name": "no", "MaximumRetryCount": 0}
_NO_LINK: Final = {
    "Bridge": "",
    "HairpinMode": False,
    "LinkLocalIPv6Address": "",
    "LinkLocalIPv6PrefixLen": 0,
    "SecondaryIPAddresses": None,
    "SecondaryIPv6Addresses": None,
}


def container(
    found: Container, *, stats: Mapping[str, int] | None = None, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a container as `GET /containers/ID/json` does.

    Args:
        found: The container.
        stats: Counters of its storage driver's file server.
        missing: Its drivers that are not installed any more, as "storage driver NAME".
    """
    argv = list(command_line(found.spec, found.config).argv) or [""]
    return {
        "Id": found.id,
        "Created": timestamp(found.created_ns),
        "Path": argv[0],
        "Args": argv[1:],
        "State": _state(found),
        "Image": found.image_id,
        "ResolvConfPath": found.files.get("resolv.conf", ""),
        "HostnamePath": found.files.get("hostname", ""),
        "HostsPath": found.files.get("hosts", ""),
        "LogPath": found.files.get("log", ""),
        "Name": f"/{found.name}",
        "RestartCount": found.state.restart_count,
        "Driver": found.drivers.storage,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(found),
        "GraphDriver": {"Name": found.drivers.storage, "Data": {}},
        "Mounts": [_mount(mount) for mount in found.mounts if mount.type != "tmpfs"],
        "Config": _config(found),
        "NetworkSettings": _network_settings(found),
        # Not docker's.
        "Drivers": encode(found.drivers),
        "DriverRecords": encode(found.records),
        "DriverStats": dict(stats or {}),
        "MissingDrivers": list(missing),
        "UserMap": encode(found.user_map),
        "Warnings": list(found.state.warnings),
    }


def _state(found: Container) -> dict[str, Any]:
    state = found.state
    return {
        "Status": found.status,
        "Running": found.running,
        "Paused": found.status == "paused",
        "Restarting": False,
        "OOMKilled": state.oom_killed,
        "Dead": found.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code or 0,
        "Error": state.error,
        "StartedAt": timestamp(state.started_ns),
        "FinishedAt": timestamp(state.finished_ns),
        # Not docker's.
        "MonitorPid": state.monitor_pid,
        "ServerPid": state.server_pid,
    }


def _config(found: Container) -> dict[str, Any]:
    spec, config = found.spec, found.config
    command = command_line(spec, config)
    exposed = {*config.exposed_ports, *(f"{port.guest_port}/{port.protocol}" for port in spec.ports)}
    return {
        "Hostname": found.hostname,
        "Domainname": spec.domainname or "",
        "User": spec.user if spec.user is not None else config.user,
        "AttachStdin": spec.interactive,
        "AttachStdout": False,
        "AttachStderr": False,
        "ExposedPorts": {port: {} for port in sorted(exposed)},
        "Tty": spec.tty,
        "OpenStdin": spec.interactive,
        "StdinOnce": False,
        "Env": list(variables(spec, config)),
        "Cmd": list(command.cmd) or None,
        "Image": found.image_name,
        "Volumes": {path: {} for path in config.volumes} or None,
        "WorkingDir": spec.working_dir or config.working_dir,
        "Entrypoint": list(command.entrypoint) or None,
        "OnBuild": None,
        "Labels": {**config.labels, **spec.labels},
        "StopSignal": spec.stop_signal or config.stop_signal or "SIGTERM",
        **({} if spec.stop_timeout_s is None else {"StopTimeout": spec.stop_timeout_s}),
    }


def _host_config(found: Container) -> dict[str, Any]:
    spec = found.spec
    security = ["no-new-privileges"] if spec.no_new_privileges else []
    security += [f"seccomp={spec.seccomp}"] if spec.seccomp != "default" else []
    security += ["systempaths=unconfined"] if spec.unmasked else []
    unmasked = spec.unmasked or spec.privileged
    return {
        "Binds": _binds(found.mounts) or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": spec.modes.get("net") or found.drivers.joins,
        "PortBindings": _bindings(spec.ports),
        "RestartPolicy": dict(_NO_RESTART),
        "AutoRemove": spec.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [0, 0],
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "CgroupnsMode": _mode(found, "cgroup") or "private",
        "Dns": list(spec.dns),
        "DnsOptions": list(spec.dns_options),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": list(spec.extra_hosts) or None,
        "GroupAdd": list(spec.groups) or None,
        "IpcMode": _mode(found, "ipc") or "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": spec.oom_score_adj or 0,
        "PidMode": _mode(found, "pid"),
        "Privileged": spec.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.read_only,
        "SecurityOpt": security or None,
        "Tmpfs": {mount.target: _tmpfs_options(mount) for mount in found.mounts if mount.type == "tmpfs"},
        "UTSMode": _mode(found, "uts"),
        "UsernsMode": spec.userns,
        "ShmSize": spec.shm_size_bytes,
        "Sysctls": dict(spec.sysctls),
        "Runtime": found.drivers.runtime,
        "Isolation": "",
        "MaskedPaths": None if unmasked else list(paths.MASKED),
        "ReadonlyPaths": None if unmasked else list(paths.READ_ONLY),
        "Init": spec.init,
        **_resources(found),
    }


def _resources(found: Container) -> dict[str, Any]:
    spec, limits = found.spec, found.spec.limits
    return {
        "CpuShares": limits.cpu_shares or 0,
        "Memory": limits.memory_bytes or 0,
        "NanoCpus": 0,
        "CgroupParent": spec.cgroup_parent,
        "BlkioWeight": limits.blkio_weight or 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": _rates(limits.read_bps),
        "BlkioDeviceWriteBps": _rates(limits.write_bps),
        "BlkioDeviceReadIOps": _rates(limits.read_iops),
        "BlkioDeviceWriteIOps": _rates(limits.write_iops),
        "CpuPeriod": limits.cpu_period_us if limits.cpu_quota_us else 0,
        "CpuQuota": limits.cpu_quota_us or 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus or "",
        "CpusetMems": limits.cpuset_mems or "",
        "Devices": [_device(device) for device in spec.devices],
        "DeviceCgroupRules": list(spec.device_rules) or None,
        "DeviceRequests": None,
        "MemoryReservation": limits.memory_reservation_bytes or 0,
        "MemorySwap": limits.memory_swap_bytes or 0,
        "MemorySwappiness": None,
        "OomKillDisable": False,
        "PidsLimit": limits.pids,
        "Ulimits": [_ulimit(rlimit) for rlimit in spec.rlimits],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    }


def _mode(found: Container, name: str) -> str:
    mode = found.spec.modes.get(name, "")
    return "" if mode == "private" else mode


def _rates(rates: Iterable[DeviceRate]) -> list[dict[str, Any]]:
    # The kernel's own link of a device, by its number: the name it was given by is not kept.
    return [{"Path": f"/dev/block/{each.major}:{each.minor}", "Rate": each.rate} for each in rates]


def _device(device: Device) -> dict[str, str]:
    return {"PathOnHost": device.host, "PathInContainer": device.guest, "CgroupPermissions": device.access}


def _ulimit(rlimit: Rlimit) -> dict[str, Any]:
    return {"Name": rlimit.name, "Hard": rlimit.hard, "Soft": rlimit.soft}


def _binds(mounts: Iterable[MountPoint]) -> list[str]:
    """Return what docker keeps of each `-v`: SOURCE:TARGET[:ro]."""
    return [
        f"{mount.name or mount.source}:{mount.target}" + (":ro" if mount.read_only else "")
        for mount in mounts
        if mount.type in ("bind", "volume") and not mount.anonymous
    ]


def _tmpfs_options(mount: MountPoint) -> str:
    return ",".join(name if value is None else f"{name}={value}" for name, value in mount.options)


def _mount(mount: MountPoint) -> dict[str, Any]:
    shape = {
        "Type": mount.type,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": "ro" if mount.read_only else "",
        "RW": not mount.read_only,
        "Propagation": mount.propagation if mount.type == "bind" else "",
    }
    if mount.type == "volume":
        shape |= {"Name": mount.name, "Driver": LOCAL}
    return shape


# --- networks ------------------------------------------------------------------------------------------------


def _bindings(ports: Iterable[Port]) -> dict[str, list[dict[str, str]]]:
    """Return ports as docker keys them: "80/tcp" to where each is published; port 0 of the host is ""."""
    found: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port.host_ip, "HostPort": str(port.host_port or "")}
        found.setdefault(f"{port.guest_port}/{port.protocol}", []).append(binding)
    return found


def _published(connections: Iterable[Connection]) -> dict[str, list[dict[str, str]]]:
    found = _bindings(port for each in connections for port in each.attachment.ports)
    for bindings in found.values():
        for binding in bindings:
            binding["HostIp"] = binding["HostIp"] or "0.0.0.0"  # noqa: S104 - docker's words
    return found


def _endpoint(attachment: Attachment | None) -> dict[str, Any]:
    """Return the part of an endpoint that docker shows twice: its first IPv4 and IPv6 address, and the MAC."""
    first = next(iter(attachment.interfaces), None) if attachment else None
    addresses = first.addresses if first else ()
    ipv4, _, length4 = next((each for each in addresses if ":" not in each), "").partition("/")
    ipv6, _, length6 = next((each for each in addresses if ":" in each), "").partition("/")
    gateway = (attachment.gateway if attachment else None) or ""
    return {
        "EndpointID": "",
        "Gateway": "" if ":" in gateway else gateway,
        "GlobalIPv6Address": ipv6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "IPAddress": ipv4,
        "IPPrefixLen": int(length4 or 0),
        "IPv6Gateway": gateway if ":" in gateway else "",
        "MacAddress": (first.mac if first else None) or "",
    }


def _network_settings(found: Container) -> dict[str, Any]:
    networks = {
        each.network: {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": None,
            "NetworkID": each.network,
            **_endpoint(each.attachment),
            "DriverOpts": None,
        }
        for each in found.connections
    }
    first = found.connections[0].attachment if found.connections else None
    return {
        **_NO_LINK,
        "SandboxID": found.id if first else "",
        "SandboxKey": f"/proc/{found.state.pid}/ns/net" if first and found.state.pid else "",
        "Ports": _published(found.connections),
        **_endpoint(first),
        "Networks": networks,
        # Not docker's.
        "Interfaces": [encode(interface) for each in found.connections for interface in each.attachment.interfaces],
    }
