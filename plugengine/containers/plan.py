"""From a container's description and its drivers' answers to the steps of its start; reads, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from plugengine.bundle import Bundle
from plugengine.containers.network_steps import NetworkStep, WriteFilesStep
from plugengine.containers.placement import PlacedMount, mounts_of, user_map_of
from plugengine.containers.requests import cgroup_request, runtime_request, storage_request
from plugengine.containers.steps import CgroupStep, CreateStep, StartStep, Step
from plugengine.containers.storage_steps import FillVolumesStep, ShiftOwnersStep, rootfs_steps
from plugengine.errors import ConflictError, UsageError
from plugengine.images.ports import expand
from plugengine.kernel import machine
from plugengine.kernel.process import CLONE_NEWTIME
from plugengine.model import (
    Capability,
    CgroupRequest,
    GuestPath,
    HostPath,
    Limits,
    NamespaceRequest,
    Port,
    Rootfs,
    StorageRequest,
    short_id,
)
from plugengine.networks import etc_files, ipam
from plugengine.plugins.choice import explain_missing
from plugengine.plugins.drivers import DriverSet, RuntimeDriver
from plugengine.runtime.inside import plan_inside
from plugengine.runtime.process import may_trace, plan_process
from plugengine.runtime.request import InsideRequest, ResolvedMount
from plugengine.security import devices
from plugengine.site import Site
from plugengine.spec import ImageConfig
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow


class StartPlan(Struct, frozen=True, kw_only=True):
    """Everything of one start, as values.

    What only the start itself can know is not in it, and is filled in by the steps: the network's subnet and address,
    the ids of the user, pids and descriptors.
    """

    storage: StorageRequest
    rootfs: Rootfs
    server_log: HostPath
    cgroup: CgroupStep
    owners: ShiftOwnersStep | None  # where the storage driver cannot show them mapped
    fills: FillVolumesStep | None
    create: CreateStep
    network: NetworkStep | None  # None: another container's
    files: WriteFilesStep | None  # likewise
    start: StartStep
    hostname: str
    warnings: tuple[str, ...]

    def steps(self) -> list[Step]:
        """Return the steps in order."""
        # A file server gets ready while the control group is made.
        mounts, ready = rootfs_steps(self.rootfs, self.server_log)
        steps: list[Step | None] = [*mounts, self.cgroup, *ready, self.owners, self.fills, self.create]
        steps += [self.network, self.files, self.start]
        return [step for step in steps if step is not None]


def plan_start(site: Site, row: ContainerRow, drivers: DriverSet) -> StartPlan:
    """Return the plan that starts a container, also one that is not made yet.

    Raises:
        PlugengineError: Something it depends on is not there, or a limit cannot be enforced.
    """
    return _Planner(site, row, drivers).plan()


def settle(site: Site, plan: StartPlan, row: ContainerRow, drivers: DriverSet) -> StartPlan:
    """Return the plan of a container that was planned before it was made, now that its storage driver has its record.

    Where somebody else got the ids it was planned with, it is planned again.
    """
    if plan.storage.user_map != user_map_of(row.records):
        return plan_start(site, row, drivers)
    return msgspec.structs.replace(plan, rootfs=drivers.storage.mounts(plan.storage, row.records["storage"]))


class _Planner:
    """Collects a container's steps."""

    def __init__(self, site: Site, row: ContainerRow, drivers: DriverSet) -> None:
        self._site = site
        self._row = row
        self._spec = row.spec
        self._drivers = drivers
        self._config = msgspec.convert(row.records.get("config") or {}, ImageConfig)
        self._user_map = user_map_of(row.records)
        self._net_owner: ContainerRow | None = None
        self._warnings: list[str] = []
        self._platform = row.records.get("platform", "")
        if not machine.runs_here(self._platform):
            self._warnings.append(
                f"image {row.image_name}: is for {self._platform}, and this machine is {machine.platform()}"
            )
        self._modes = self._resolve_modes()
        if (
            Capability.HOST_NAMESPACE in drivers.network.info.capabilities
            and self._modes.get("net", "private") == "private"
        ):
            self._modes["net"] = "host"
        self._hostname = self._pick_hostname()
        self._mounts = mounts_of(row.records)

    def plan(self) -> StartPlan:
        """Return the plan."""
        storage = storage_request(self._site, self._row, self._row.records)
        cgroup = self._cgroup()
        own_network = not self._modes.get("net", "private").startswith("container:")
        create = self._create(cgroup.request)
        return StartPlan(
            storage=storage,
            rootfs=self._drivers.storage.mounts(storage, self._row.records.get("storage") or {}),
            server_log=self._site.locations.server_log(self._row.id),
            cgroup=cgroup,
            owners=self._owners(storage),
            fills=self._fills(storage),
            create=create,
            network=self._network() if own_network else None,
            files=self._files() if self._net_owner is None else None,
            start=StartStep(create.request, create.bundle.process),
            hostname=self._hostname,
            warnings=(*cgroup.settings.unsupported, *self._drivers.problems, *self._warnings),
        )

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

    # --- steps -----------------------------------------------------------------------------------------------

    def _cgroup(self) -> CgroupStep:
        request = cgroup_request(self._site, self._row)
        limits = self._limits()
        return CgroupStep(request, self._drivers.cgroup.settings(limits, request), limits)

    def _limits(self) -> Limits:
        if self._spec.privileged:
            return self._spec.limits
        rules = list(devices.RULES)
        rules += [devices.parse_rule(text) for text in self._spec.device_rules]
        for device in self._spec.devices:
            rules += devices.rules_for(device.host, device.access)
        return msgspec.structs.replace(self._spec.limits, devices=tuple(rules))

    def _owners(self, storage: StorageRequest) -> ShiftOwnersStep | None:
        """Return the step that gives the files their owners, once in a container's life."""
        shown_mapped = Capability.USER_MAP in self._drivers.storage.info.capabilities
        if self._user_map is None or shown_mapped or self._row.state.started_ns:
            return None
        return ShiftOwnersStep(storage.target, self._user_map)

    def _fills(self, storage: StorageRequest) -> FillVolumesStep | None:
        fills = tuple((mount.target, mount.source) for mount in self._mounts if mount.fill)
        if not fills or self._row.state.started_ns:
            return None
        return FillVolumesStep(storage.target, fills, self._user_map)

    def _network(self) -> NetworkStep:
        chosen = self._row.choice
        if chosen.network_name:
            ipam.get_network(self._site.state, chosen.network_name)  # it may have been removed
        return NetworkStep(
            container_id=self._row.id,
            network=chosen.joins,
            driver=chosen.network,
            ip=self._spec.ip,
            mac=self._spec.mac_address,
            ports=tuple(self._ports()),
            options=chosen.network_options,
        )

    def _ports(self) -> Iterator[Port]:
        yield from self._spec.ports
        if not self._spec.publish_all:
            return
        published = {(port.guest_port, port.protocol) for port in self._spec.ports}
        for text in self._config.exposed_ports:
            try:
                exposed = expand(text)
            except ValueError as exc:
                raise UsageError(f"image {self._row.image_name}: exposed port {text!r}: {exc}") from exc
            for number, protocol in exposed:
                if (number, protocol) not in published:
                    yield Port(host_ip="", host_port=0, guest_port=number, protocol=protocol)

    def _files(self) -> WriteFilesStep:
        return WriteFilesStep(
            container_id=self._row.id,
            spec=self._spec,
            hostname=self._hostname,
            host_network=self._modes.get("net") == "host",
        )

    # --- the inside ------------------------------------------------------------------------------------------

    def _create(self, group: CgroupRequest) -> CreateStep:
        locations = self._site.locations
        namespaces = self._drivers.namespace.plan(
            NamespaceRequest(
                container_id=self._row.id,
                modes=self._modes,
                user_map=self._user_map,
                options=self._row.choice.namespace_options,
            )
        )
        # Whoever shares a network shares the names that belong to it, as with docker.
        named = {name: locations.etc((self._net_owner or self._row).id, name) for name in etc_files.NAMES}
        inside = InsideRequest(
            container_id=self._row.id,
            rootfs=locations.rootfs(self._row.id),
            spec=self._spec,
            config=self._config,
            hostname=self._hostname,
            namespaces=namespaces,
            etc_files={GuestPath(f"/etc/{name}"): path for name, path in named.items()},
            mounts=tuple(_resolved(mount) for mount in self._mounts),
            cgroup_mounts=self._drivers.cgroup.mounts(group, HostPath("/")),
            devices=self._spec.devices,
            shm=self._shm(),
        )
        process = plan_process(self._spec, self._config, hostname=self._hostname, platform=self._platform)
        bundle = plan_inside(inside, process)
        check_runtime(self._drivers.runtime, bundle)
        return CreateStep(
            request=runtime_request(self._site, self._row),
            bundle=bundle,
            files=tuple(named.values()),
            interactive=self._spec.interactive,
        )

    def _shm(self) -> HostPath | None:
        ipc = self._modes.get("ipc", "private")
        if ipc.startswith("container:"):
            return HostPath(f"/proc/{ipc.partition(':')[2]}/root/dev/shm")
        return HostPath("/dev/shm") if ipc == "host" else None  # noqa: S108 - the host's, as asked


def check_runtime(runtime: RuntimeDriver, bundle: Bundle) -> None:
    """Raise NotSupportedError where a container needs what its runtime does not claim."""
    namespaces = bundle.namespaces
    for needed, capability, flag in (
        (bundle.process.init, Capability.INIT, "--init"),
        (namespaces.user_map is not None, Capability.USER_NAMESPACE, "--userns"),
        (namespaces.clone_flags & CLONE_NEWTIME, Capability.TIME_NAMESPACE, "--time"),
        (any(each.user_map for each in bundle.mounts), Capability.ID_MAPPED_MOUNTS, "--userns with --volume"),
    ):
        if needed and capability not in runtime.info.capabilities:
            raise explain_missing(capability, runtime.group, runtime.name, flag)


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
