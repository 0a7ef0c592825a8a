"""Make a container: image, drivers, id maps, volumes and writable layer, but no process yet."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from plugengine import volumes
from plugengine.containers.remove import remove_half_made
from plugengine.containers.requests import storage_request
from plugengine.errors import NotFoundError, PlugengineError, UsageError
from plugengine.kernel.process import ProcessId, boot_id
from plugengine.model import (
    Capability,
    GuestPath,
    HostPath,
    UserMap,
    encode,
)
from plugengine.networks import networks
from plugengine.plugins.choice import check_options, explain_missing
from plugengine.plugins.drivers import Driver, DriverSet
from plugengine.plugins.observers import Teller
from plugengine.site import Site
from plugengine.spec import ContainerSpec, DriverChoice, Image, VolumeMount, required_argv
from plugengine.state import container_rows, id_ranges
from plugengine.state.container_rows import ContainerRow
from plugengine.state.names import check_name, new_id

if TYPE_CHECKING:
    from plugengine.images.store import Progress

# docker's minimum as well: with less the kernel kills the first process while it is being set up.
LEAST_MEMORY: Final = 6 << 20


class PlacedMount(Struct, frozen=True, kw_only=True):
    """One mount of a container with its place on the host settled; kept in the records."""

    type: str  # bind, volume, tmpfs
    target: GuestPath
    source: HostPath = HostPath("")  # empty for tmpfs
    name: str = ""  # of the volume
    subpath: str = ""  # in the volume; looked up at each start
    anonymous: bool = False
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    fill: bool = False  # an empty volume gets the image's content
    options: tuple[tuple[str, str | None], ...] = ()


def create(site: Site, spec: ContainerSpec, *, progress: Progress | None = None) -> ContainerRow:
    """Make a container and return its row, status "created".

    Args:
        site: Where.
        spec: The container.
        progress: Called while its image is made or fetched; see `ImageStore.resolve`.

    Raises:
        PlugengineError: Nothing was made, or all of it was removed again.
    """
    image = site.images.resolve(spec.image, pull=spec.pull, progress=progress)
    required_argv(spec, image.config)
    chosen = networks.choose(site, spec)
    drivers = site.drivers(chosen)
    check_spec(drivers, chosen, spec)
    row = container_rows.insert(
        site.state,
        ContainerRow(
            id=new_id(),
            name=(spec.name or "").lstrip("/"),
            status="creating",
            created_ns=time.time_ns(),
            image_id=image.id,
            image_name=spec.image,
            spec=spec,
            choice=chosen,
            owner=ProcessId.of(os.getpid()),
            boot_id=boot_id(),
        ),
    )
    try:
        records = _furnish(site, row, image, drivers)
        if Capability.HOST_MOUNTS in drivers.storage.info.capabilities:
            site.drop_spare()  # it does not see what was mounted since, unless the host shares its mounts
        container_rows.update(site.state, row.id, status="created", expect=("creating",), records=records, owner=None)
    except BaseException:
        remove_half_made(site, row, drivers.storage)
        raise
    Teller(drivers.observe, row.id)("create", name=row.name, image=spec.image)
    return msgspec.structs.replace(row, status="created", records=_as_stored(records), owner=None)


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


def _furnish(site: Site, row: ContainerRow, image: Image, drivers: DriverSet) -> dict[str, Any]:
    """Make what belongs to the container on disk; return the records."""
    spec = row.spec
    os.makedirs(site.locations.container(row.id), 0o710, exist_ok=True)
    os.makedirs(site.locations.storage(row.id, row.choice.storage), 0o700, exist_ok=True)
    user_map = choose_user_map(site, row.id, spec.userns)
    placed = place_mounts(site, row.id, spec, image)
    records: dict[str, Any] = {
        "platform": f"{image.os}/{image.architecture}",
        "layers": list(image.layers),
        "config": encode(image.config),
        "mounts": encode(placed),
        "user_map": encode(user_map) if user_map else None,
    }
    records["storage"] = dict(drivers.storage.prepare(storage_request(site, row, records)))
    records["written_by"] = drivers.storage.source
    return records


def _as_stored(records: dict[str, Any]) -> dict[str, Any]:
    """Return records as they come back from the state database, where what a driver gave becomes JSON."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(records))
    return found


def choose_user_map(site: Site, container_id: str, userns: str, *, imagine: bool = False) -> UserMap | None:
    """Return the ids of a container's user namespace, None for the host's; with `imagine` none are taken."""
    if userns in ("", "host"):
        return None
    if userns == "auto":
        return id_ranges.expected(site.state) if imagine else id_ranges.allot(site.state, container_id)
    try:
        uid, gid, size = (int(part) for part in userns.split(":"))
    except ValueError:
        raise UsageError(f"--userns {userns}: not host, auto or <uid>:<gid>:<size>") from None
    if min(uid, gid, size) <= 0 or max(uid, gid) + size >= 2**32:
        raise UsageError(f"--userns {userns}: ids and size must be above 0 and end below 4294967295")
    return id_ranges.claim(site.state, container_id, uid=uid, gid=gid, size=size, imagine=imagine)


def place_mounts(
    site: Site, container_id: str, spec: ContainerSpec, image: Image, *, imagine: bool = False
) -> tuple[PlacedMount, ...]:
    """Settle where a container's mounts are on the host, making volumes; with `imagine` nothing is made."""
    targets = {os.path.normpath(mount.target) for mount in spec.mounts}
    if len(targets) != len(spec.mounts):
        raise UsageError("mounts: two of them have the same target")
    wanted = list(spec.mounts)
    wanted += [
        VolumeMount(type="volume", target=path)
        for path in image.config.volumes
        if os.path.normpath(path) not in targets
    ]
    return tuple(_place(site, container_id, mount, imagine=imagine) for mount in wanted)


def _place(site: Site, container_id: str, mount: VolumeMount, *, imagine: bool) -> PlacedMount:
    if not mount.target.startswith("/") or os.path.normpath(mount.target) == "/":
        raise UsageError(f"mount {mount.target or '(empty)'}: the target must be an absolute path other than /")
    common: dict[str, Any] = {
        "type": mount.type,
        "target": GuestPath(os.path.normpath(mount.target)),
        "read_only": mount.read_only,
        "propagation": mount.propagation,
        "recursive": mount.recursive,
        "options": mount.options,
    }
    if mount.type == "tmpfs":
        return PlacedMount(**common)
    if mount.type == "bind":
        return PlacedMount(**common, source=_bind_source(mount, imagine=imagine))
    if mount.type != "volume":
        raise UsageError(f"mount type {mount.type}: not bind, volume or tmpfs")
    subpath = volumes.check_subpath(mount.source, mount.subpath) if mount.subpath else ""
    placed = PlacedMount(
        **common, subpath=subpath, anonymous=not mount.source, fill=not mount.no_copy and not mount.subpath
    )
    if imagine:
        name = check_name(mount.source, what="volume") if mount.source else container_id
    else:
        name = volumes.create(
            site.state, site.locations, mount.source or None, anonymous=not mount.source, user=container_id
        ).name
    return msgspec.structs.replace(placed, name=name, source=site.locations.volume_data(name))


def _bind_source(mount: VolumeMount, *, imagine: bool) -> HostPath:
    if not os.path.isabs(mount.source):
        raise UsageError(f"bind {mount.source}: the source must be an absolute path")
    if not os.path.lexists(mount.source):
        if not mount.create_source:
            raise NotFoundError(f"bind {mount.source}: no such file or directory on the host")
        try:
            if not imagine:
                os.makedirs(mount.source, exist_ok=True)
        except OSError as exc:
            raise PlugengineError(f"bind {mount.source}: make directory: {exc.strerror}") from exc
    return HostPath(mount.source)
