"""From a container's description and its drivers' answers to the ordered steps of its start."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from plugengine.containers.create import PlacedMount
from plugengine.containers.requests import cgroup_request, storage_request
from plugengine.containers.steps import (
    CgroupStep,
    CloneStep,
    CommandStep,
    JoinCgroupStep,
    Live,
    MapUsersStep,
    NetworkStep,
    Step,
    WriteFilesStep,
)
from plugengine.containers.storage_steps import FillVolumesStep, ShiftOwnersStep, rootfs_steps
from plugengine.errors import ConflictError, UsageError
from plugengine.images.ports import expand
from plugengine.kernel import machine
from plugengine.model import (
    Capability,
    GuestPath,
    HostPath,
    Limits,
    NamespacePlan,
    NamespaceRequest,
    Network,
    Port,
    UserMap,
    short_id,
)
from plugengine.networks import etc_files, ipam, networks
from plugengine.plugins.drivers import DriverSet
from plugengine.runtime.guest import GuestRequest, ResolvedMount, may_trace, plan_guest
from plugengine.runtime.launch import Launch, clone_first
from plugengine.security import devices
from plugengine.site import Site
from plugengine.spec import ImageConfig, required_argv
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow

_NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup", "user", "time")


class StartPlan(Struct, frozen=True, kw_only=True):
    """Everything of one start."""

    steps: tuple[Step, ...]
    warnings: tuple[str, ...]


def make_plan(site: Site, row: ContainerRow, drivers: DriverSet, *, imagine: bool = False) -> StartPlan:
    """Return the steps that start a container; with `imagine` they can be described, but not taken.

    Raises:
        PlugengineError: Something it depends on is not there, or a limit cannot be held.
    """
    return _Planner(site, row, drivers, imagine=imagine).plan()


class _Planner:
    """Collects a container's steps."""

    def __init__(self, site: Site, row: ContainerRow, drivers: DriverSet, *, imagine: bool) -> None:
        self._site = site
        self._find_network = networks.imagined if imagine else networks.joined
        self._row = row
        self._spec = row.spec
        self._drivers = drivers
        self._records: Mapping[str, Any] = row.records
        self._config = msgspec.convert(row.records.get("config") or {}, ImageConfig)
        user_map = row.records.get("user_map")
        self._user_map = msgspec.convert(user_map, UserMap) if user_map else None
        self._net_owner: ContainerRow | None = None
        self._warnings: list[str] = []
        platform = row.records.get("platform", "")
        if not machine.runs_here(platform):
            self._warnings.append(
                f"image {row.image_name}: is for {platform}, and this machine is {machine.platform()}"
            )
        self._modes = self._resolve_modes()
        self._host_net = Capability.HOST_NAMESPACE in drivers.network.info.capabilities
        if self._host_net and self._modes.get("net", "private") == "private":
            self._modes["net"] = "host"
        self._hostname = self._pick_hostname()
        self._mounts = msgspec.convert(row.records.get("mounts") or (), tuple[PlacedMount, ...])

    def plan(self) -> StartPlan:
        """Return the steps."""
        namespaces = self._drivers.namespace.plan(
            NamespaceRequest(
                container_id=self._row.id,
                modes=self._modes,
                user_map=self._user_map,
                options=self._row.choice.namespace_options,
            )
        )
        request = cgroup_request(self._site, self._row)
        limits = self._limits()
        settings = self._drivers.cgroup.settings(limits, request)
        launch = self._launch(namespaces)
        # A file server gets ready while the control group is made.
        mounts, content = self._storage_steps()
        steps: list[Step] = [*mounts, CgroupStep(request, settings, limits), *content, *self._volume_steps()]
        steps.append(CloneStep(lambda live: clone_first(launch, live.cgroup), _names(namespaces)))
        if namespaces.user_map is not None:
            steps.append(MapUsersStep(namespaces.user_map))
        steps.append(JoinCgroupStep(self._spec.oom_score_adj))
        if not self._modes.get("net", "private").startswith("container:"):
            steps.append(self._network_step())
        if self._net_owner is None:
            steps.append(WriteFilesStep(self._write_files))
        steps.append(CommandStep(plan_guest(launch.guest), required_argv(self._spec, self._config)))
        return StartPlan(steps=tuple(steps), warnings=(*settings.unsupported, *self._drivers.problems, *self._warnings))

    # --- what others answered --------------------------------------------------------------------------------

    def _resolve_modes(self) -> dict[str, str]:
        """Return the modes with names of containers replaced by their processes."""
        modes: dict[str, str] = {}
        for name, mode in self._spec.modes.items():
            kind, colon, reference = mode.partition(":")
            if kind != "container" or not colon:
                modes[name] = mode
                continue
            other = container_rows.get(self._site.state, reference)
            if other.status not in ("running", "paused") or not other.state.pid:
                raise ConflictError(f"--{name} {mode}: container {other.name} is {other.status}, not running")
            modes[name] = f"container:{other.state.pid}"
            if name == "net":
                self._net_owner = other
            elif name == "pid" and not other.records.get("user_map") and may_trace(other.spec):
                self._warnings.append(
                    f"--pid {mode}: container {other.name} has SYS_PTRACE and no user namespace of its own:"
                    " it can take this one over while it is set up, with the rights of the host's root"
                )
        return modes

    def _pick_hostname(self) -> str:
        if self._spec.hostname:
            return self._spec.hostname
        if self._net_owner is not None:
            return self._net_owner.spec.hostname or short_id(self._net_owner.id)
        if self._modes.get("uts", "private") != "private" or self._modes.get("net") == "host":
            return os.uname().nodename
        return short_id(self._row.id)

    def _limits(self) -> Limits:
        if self._spec.privileged:
            return self._spec.limits
        rules = list(devices.RULES)
        rules += [devices.parse_rule(text) for text in self._spec.device_rules]
        for device in self._spec.devices:
            rules += devices.rules_for(device.host, device.access)
        return msgspec.structs.replace(self._spec.limits, devices=tuple(rules))

    # --- steps -----------------------------------------------------------------------------------------------

    def _storage_steps(self) -> tuple[list[Step], list[Step]]:
        """Return the steps that mount the root filesystem, and those that wait for it and work on it."""
        request = storage_request(self._site, self._row, self._records)
        rootfs = self._drivers.storage.mounts(request, self._records.get("storage") or {})
        mounts, content = rootfs_steps(rootfs, self._site.locations.server_log(self._row.id))
        shown_mapped = Capability.USER_MAP in self._drivers.storage.info.capabilities
        if self._user_map is not None and not shown_mapped and not self._row.state.started_ns:
            content.append(ShiftOwnersStep(request.target, self._user_map))
        return mounts, content

    def _volume_steps(self) -> list[Step]:
        fills = tuple((mount.target, mount.source) for mount in self._mounts if mount.fill)
        if not fills or self._row.state.started_ns:
            return []
        from plugengine import volumes

        def fill(rootfs: str, guest: str, host: str) -> None:
            volumes.fill(rootfs, guest, host, self._user_map)

        return [FillVolumesStep(self._site.locations.rootfs(self._row.id), fills, fill)]

    def _network_step(self) -> NetworkStep:
        network = self._find_network(self._site, self._row.choice, self._drivers.network)
        return NetworkStep(
            container_id=self._row.id,
            network=network,
            hold=lambda: networks.in_use(self._site, network),
            lease=lambda: self._lease(network),
            release=lambda: self._release(network),
            retire=lambda: networks.remove_if_idle(self._site, network, self._drivers.network),
            keep_record=lambda record: networks.keep_record(self._site, network, record),
            mac=self._spec.mac_address,
            ports=self._ports(),
            lease_ports=self._lease_ports,
            options=self._row.choice.network_options,
        )

    def _lease(self, network: Network) -> str | None:
        if network.subnet is not None or self._row.choice.network_name:
            networks.joined(self._site, self._row.choice, self._drivers.network)  # somebody may just have removed it
        if network.subnet is None:
            return None
        return ipam.lease(self._site.state, network, self._row.id, self._spec.ip)

    def _release(self, network: Network) -> None:
        if network.subnet is not None:
            ipam.release(self._site.state, self._row.id, network=network.name)
        if self._ports():
            from plugengine.networks import ports

            ports.release(self._site.state, self._row.id)

    def _lease_ports(self, avoid: Collection[Port]) -> tuple[Port, ...]:
        from plugengine.networks import ports

        return ports.lease(self._site.state, self._row.id, self._ports(), avoid)

    def _ports(self) -> tuple[Port, ...]:
        if not self._spec.publish_all:
            return self._spec.ports
        published = {(port.guest_port, port.protocol) for port in self._spec.ports}
        extra: list[Port] = []
        for text in self._config.exposed_ports:
            try:
                exposed = expand(text)
            except ValueError as exc:
                raise UsageError(f"image {self._row.image_name}: exposed port {text!r}: {exc}") from exc
            extra += [
                Port(host_ip="", host_port=0, guest_port=number, protocol=protocol)
                for number, protocol in exposed
                if (number, protocol) not in published
            ]
        return (*self._spec.ports, *extra)

    # --- the inside ------------------------------------------------------------------------------------------

    def _launch(self, namespaces: NamespacePlan) -> Launch:
        own = {name: self._modes.get(name, "private") == "private" for name in _NAMESPACES}
        ipc = self._modes.get("ipc", "private")
        shm = None
        if ipc.startswith("container:"):
            shm = HostPath(f"/proc/{ipc.partition(':')[2]}/root/dev/shm")
        elif ipc == "host":
            shm = HostPath("/dev/shm")  # noqa: S108 - the host's, as asked
        guest = GuestRequest(
            rootfs=self._site.locations.rootfs(self._row.id),
            spec=self._spec,
            config=self._config,
            hostname=self._hostname,
            etc_files={
                # Whoever shares a network shares the names that belong to it, as with docker.
                GuestPath(f"/etc/{name}"): self._site.locations.etc((self._net_owner or self._row).id, name)
                for name in etc_files.NAMES
            },
            mounts=tuple(_resolved(mount) for mount in self._mounts),
            devices=self._spec.devices,
            shm=shm,
            user_map=namespaces.user_map,
            platform=self._records.get("platform", ""),
            own_pid=own["pid"],
            own_ipc=own["ipc"],
            own_net=own["net"],
            own_uts=own["uts"],
            own_cgroup=own["cgroup"],
        )
        return Launch(site=self._site, guest=guest, namespaces=namespaces, drivers=self._drivers)

    def _write_files(self, live: Live) -> None:
        etc_files.write(
            self._site.locations,
            self._row.id,
            self._spec,
            hostname=self._hostname,
            attachment=live.attachment,
            host_network=self._modes.get("net") == "host",
        )


def _names(namespaces: NamespacePlan) -> tuple[str, ...]:
    from plugengine.kernel import process

    flags = namespaces.clone_flags | namespaces.unshare_flags
    known = {
        "pid": process.CLONE_NEWPID,
        "net": process.CLONE_NEWNET,
        "mnt": process.CLONE_NEWNS,
        "uts": process.CLONE_NEWUTS,
        "ipc": process.CLONE_NEWIPC,
        "cgroup": process.CLONE_NEWCGROUP,
        "user": process.CLONE_NEWUSER,
        "time": process.CLONE_NEWTIME,
    }
    return tuple(name for name, flag in known.items() if flags & flag)


def _resolved(mount: PlacedMount) -> ResolvedMount:
    return ResolvedMount(
        target=mount.target,
        source=mount.source or None,
        read_only=mount.read_only,
        recursive=mount.recursive,
        propagation=mount.propagation,
        volume=mount.name,
        subpath=mount.subpath,
        options=mount.options,
    )
