"""Make a container: image, drivers, id maps, volumes and writable layer, but no process yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from msgspec import Struct

from plugengine import volumes
from plugengine.containers.placement import PlacedMount, place_mounts, place_user_map, user_map_of
from plugengine.containers.remove import remove_half_made
from plugengine.containers.requests import storage_request
from plugengine.errors import PlugengineError, UsageError
from plugengine.kernel.process import ProcessId, boot_id
from plugengine.model import Capability, HostPath, StorageRequest, UserMap, encode
from plugengine.networks import networks
from plugengine.plugins.choice import check_options, explain_missing
from plugengine.plugins.drivers import Driver, DriverSet
from plugengine.plugins.observers import Observers
from plugengine.runtime import describe
from plugengine.site import Site
from plugengine.spec import ContainerSpec, DriverChoice, Image, required_argv
from plugengine.state import container_rows, id_ranges
from plugengine.state.container_rows import ContainerRow
from plugengine.state.names import new_id

if TYPE_CHECKING:
    from plugengine.images.store import Progress

# docker's minimum as well: with less the kernel kills the first process while it is being set up.
LEAST_MEMORY: Final = 6 << 20


class Making:
    """What the steps of one creation have found out so far: the records of the container."""

    def __init__(self, site: Site, drivers: DriverSet, records: Mapping[str, Any]) -> None:
        self.site = site
        self.drivers = drivers
        self.records: dict[str, Any] = dict(records)


class CreationStep(Protocol):
    """One thing that is made for a container; all of them go with it, by `remove_container`."""

    def describe(self) -> str:
        """Say what `do` does, in one line."""

    def do(self, making: Making) -> None:
        """Act; what was made of it is found again by the container's id."""


class Creation(Struct, frozen=True, kw_only=True):
    """A container to be made."""

    row: ContainerRow  # not in the database yet; an empty name is one to be invented
    steps: tuple[CreationStep, ...]


def plan_creation(site: Site, spec: ContainerSpec, *, progress: Progress | None = None) -> Creation:
    """Return what is to be made for a container; an image that is to be pulled is, else nothing is changed.

    Args:
        site: Where.
        spec: The container.
        progress: Called while its image is made or fetched; see `ImageStore.resolve`.

    Raises:
        PlugengineError: Something it asks for is not there, or not to be had.
    """
    image = site.images.resolve(spec.image, pull=spec.pull, progress=progress)
    required_argv(spec, image.config)
    chosen = networks.choose(site, spec)
    drivers = site.drivers(chosen)
    check_spec(drivers, chosen, spec)
    user_map = place_user_map(site, spec.userns)
    placed = place_mounts(site, spec, image)
    row = ContainerRow(
        id=new_id(),
        name=(spec.name or "").lstrip("/"),
        status="creating",
        created_ns=time.time_ns(),
        image_id=image.id,
        image_name=spec.image,
        spec=spec,
        choice=chosen,
        records={
            "platform": f"{image.os}/{image.architecture}",
            "layers": list(image.layers),
            "config": encode(image.config),
            "mounts": encode(placed),
            "user_map": encode(user_map) if user_map else None,
        },
        owner=ProcessId.of(os.getpid()),
        boot_id=boot_id(),
    )
    return Creation(row=row, steps=tuple(_steps(site, row, placed, user_map, image)))


def _steps(
    site: Site, row: ContainerRow, placed: tuple[PlacedMount, ...], user_map: UserMap | None, image: Image
) -> list[CreationStep]:
    steps: list[CreationStep] = []
    if user_map is not None:
        steps.append(IdsStep(row.id, user_map, chosen=row.spec.userns != "auto"))
    binds = dict.fromkeys(mount.source for mount in placed if mount.type == "bind")
    steps += [BindSourceStep(source) for source in binds if not os.path.lexists(source)]
    steps += [VolumeStep(row.id, mount.name, mount.anonymous) for mount in placed if mount.type == "volume"]
    request = storage_request(site, row, row.records)
    steps.append(LayerStep(row.choice.storage, request, site.locations.container(row.id), len(image.layers)))
    return steps


def create(site: Site, creation: Creation, *, log: Callable[[str], None] | None = None) -> ContainerRow:
    """Make a container and return its row, status "created".

    Args:
        site: Where.
        creation: The plan, carried out once.
        log: Takes a line for each step before it is done.

    Raises:
        PlugengineError: Nothing was made, or all of it was removed again.
    """
    drivers = site.drivers(creation.row.choice)
    row = container_rows.insert(site.state, creation.row)
    making = Making(site, drivers, row.records)
    try:
        for step in creation.steps:
            if log is not None:
                log(step.describe())
            step.do(making)
        if Capability.HOST_MOUNTS in drivers.storage.info.capabilities:
            site.drop_spare()  # it does not see what was mounted since, unless the host shares its mounts
        container_rows.update(
            site.state, row.id, status="created", expect=("creating",), records=making.records, owner=None
        )
    except BaseException:
        remove_half_made(site, row, drivers.storage)
        raise
    Observers(drivers.observe, row.id)("create", name=row.name, image=row.image_name)
    return msgspec.structs.replace(row, status="created", records=_as_stored(making.records), owner=None)


def check_spec(drivers: DriverSet, chosen: DriverChoice, spec: ContainerSpec) -> None:
    """Raise for an option or flag that the chosen drivers do not have, or that lets nothing start."""
    if spec.limits.memory_bytes is not None and 0 <= spec.limits.memory_bytes < LEAST_MEMORY:
        raise UsageError(
            f"--memory {spec.limits.memory_bytes}: less than a container needs to start", hint="at least 6m"
        )
    for driver, given in (
        (drivers.storage, chosen.storage_options),
        (drivers.network, chosen.network_options),
        (drivers.cgroup, chosen.cgroup_options),
        (drivers.namespace, chosen.namespace_options),
        (drivers.runtime, chosen.runtime_options),
    ):
        check_options(driver, given)
    joined = spec.modes.get("net", "").startswith("container:")
    if (spec.ports or spec.publish_all) and not joined:
        _need(drivers.network, Capability.PORTS, "--publish")
    if spec.ip and not joined:
        _need(drivers.network, Capability.ADDRESSES, "--ip")
    if spec.mac_address and not joined:
        _need(drivers.network, Capability.ADDRESSES, "--mac-address")
    if spec.userns not in ("", "host"):
        _need(drivers.namespace, Capability.USER_NAMESPACE, "--userns")


def _need(driver: Driver, capability: Capability, flag: str) -> None:
    if capability not in driver.info.capabilities:
        raise explain_missing(capability, driver.group, driver.name, flag)


def _as_stored(records: dict[str, Any]) -> dict[str, Any]:
    """Return records as they come back from the state database, where what a driver gave becomes JSON."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(records))
    return found


class IdsStep(Struct, frozen=True):
    """Ids of the host for the container alone."""

    container_id: str
    user_map: UserMap
    chosen: bool  # by the caller; else the next that are free

    def describe(self) -> str:
        """Name the user ids."""
        return f"allot user ids {describe.user_map(self.user_map)}"

    def do(self, making: Making) -> None:
        """Take them; where any will do, others if somebody was faster."""
        state = making.site.state
        if self.chosen:
            id_ranges.claim(state, self.container_id, self.user_map)
        else:
            making.records["user_map"] = encode(id_ranges.allot(state, self.container_id))


class BindSourceStep(Struct, frozen=True):
    """A directory of the host that is to be mounted, and is missing."""

    path: HostPath

    def describe(self) -> str:
        """Name it."""
        return f"make directory {self.path} on the host"

    def do(self, making: Making) -> None:  # noqa: ARG002
        """Make it with its parents; it stays, as with docker."""
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as exc:
            raise PlugengineError(f"bind {self.path}: make directory: {exc.strerror}") from exc


class VolumeStep(Struct, frozen=True):
    """A volume the container uses, made if there is none of the name."""

    container_id: str
    name: str
    anonymous: bool

    def describe(self) -> str:
        """Name it."""
        return f"use {'anonymous ' if self.anonymous else ''}volume {self.name}"

    def do(self, making: Making) -> None:
        """Make it, and note who uses it."""
        volumes.create(
            making.site.state, making.site.locations, self.name, anonymous=self.anonymous, user=self.container_id
        )


class LayerStep(Struct, frozen=True):
    """The container's directory, and its writable layer."""

    driver: str
    request: StorageRequest
    directory: HostPath  # of the container
    layers: int

    def describe(self) -> str:
        """Name the driver."""
        return f"prepare a writable layer with storage driver {self.driver} on {self.layers} layers"

    def do(self, making: Making) -> None:
        """Have the driver make it."""
        os.makedirs(self.directory, 0o710, exist_ok=True)
        os.makedirs(self.request.directory, 0o700, exist_ok=True)
        request = msgspec.structs.replace(self.request, user_map=user_map_of(making.records))
        making.records["storage"] = dict(making.drivers.storage.prepare(request))
        making.records["written_by"] = making.drivers.storage.source
