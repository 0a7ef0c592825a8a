"""The rows of networks: a driver's own, made at first use and gone with its last container, and those somebody made."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import msgspec

from plugengine.errors import ConflictError, NotFoundError, PlugengineError
from plugengine.model import Attachment, Capability, Network, NetworkRequest, Record, encode
from plugengine.networks import ipam
from plugengine.networks.addresses import format_cidr, parse_cidr
from plugengine.networks.ipam import NetworkRow
from plugengine.plugins.choice import check_options, explain_missing, survey
from plugengine.plugins.drivers import NetworkDriver, open_driver
from plugengine.site import Site
from plugengine.spec import ContainerSpec, DriverChoice
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE, ContainerRow
from plugengine.state.names import near_miss


def choose(site: Site, spec: ContainerSpec) -> DriverChoice:
    """Return the drivers of a new container whose network is named by itself or by its driver; see `Site.choose`.

    Raises:
        NotFoundError: Neither a network nor a driver has the name.
    """
    name = spec.network
    if name is None or name in site.registry.names("network"):
        return site.choose(spec)
    try:
        made = ipam.get_network(site.state, name).network
    except NotFoundError as exc:
        known = [*site.registry.names("network"), *(row.network.name for row in ipam.list_networks(site.state))]
        hint = near_miss(name, known) or f"there are: {', '.join(sorted(set(known)))}"
        raise NotFoundError(f"network {name}: neither a network nor an installed driver", hint=hint) from exc
    chosen = site.choose(msgspec.structs.replace(spec, network=made.driver))
    return msgspec.structs.replace(chosen, network_name=name)


def joined(site: Site, name: str, driver: NetworkDriver) -> Network:
    """Return the network a container is to be connected to; the driver's own is made if it is not there.

    Raises:
        NotFoundError: It was removed.
    """
    return default_network(site, driver) if name == driver.name else ipam.get_network(site.state, name).network


def create(
    site: Site,
    name: str,
    driver_name: str | None = None,
    *,
    subnet: str | None = None,
    gateway: str | None = None,
    ip_range: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Network:
    """Make a network, and its driver's side of it; see `engine.networks.create`."""
    if name in site.registry.names("network") or name == "default":
        raise ConflictError(f"network {name}: is what the driver's own network is called", hint="choose another name")
    driver = _open(site, driver_name or _default_driver(site))
    check_options(driver, options or {})
    network = Network(
        name=name,
        driver=driver.name,
        subnet=None if subnet is None else format_cidr(*parse_cidr(subnet)),
        gateway=gateway,
        options=dict(options or {}),
        ip_range=None if ip_range is None else format_cidr(*parse_cidr(ip_range)),
        owner=site.host.root,
    )
    if Capability.ADDRESSES in driver.info.capabilities:
        network = ipam.complete(site.state, network, host_subnets=ipam.host_subnets())
    elif flag := next((flag for flag, value in _address_flags(network) if value is not None), None):
        raise explain_missing(Capability.ADDRESSES, driver.group, driver.name, flag)
    ipam.add_network(site.state, network)
    try:
        ipam.store_record(site.state, name, driver.create(network))
    except BaseException:
        ipam.remove_network(site.state, name)
        raise
    return network


def _address_flags(network: Network) -> tuple[tuple[str, str | None], ...]:
    return ("--subnet", network.subnet), ("--gateway", network.gateway), ("--ip-range", network.ip_range)


def _default_driver(site: Site) -> str:
    found = survey(site.registry, site.host, site.configured, cache=site.survey_cache).defaults.get("network")
    if found is None:
        raise NotFoundError("network driver: none works on this host", hint="see: pe drivers")
    return found


def _open(site: Site, name: str) -> NetworkDriver:
    return cast(NetworkDriver, open_driver(site.registry, "network", name))


def remove(site: Site, name: str) -> None:
    """Remove a network somebody made; see `engine.networks.remove`."""
    row = ipam.get_network(site.state, name)
    network = row.network
    if network.name == network.driver:
        raise ConflictError(f"network {name}: is its driver's own, and goes with its last container")
    with _alone_with(site, network) as alone:
        users = containers_on(site, network)
        if users or not alone:
            raise ConflictError(f"network {name}: in use by container {', '.join(users) or '(one that is starting)'}")
        _open(site, network.driver).remove(network, row.record)
        ipam.remove_network(site.state, name)


def containers_on(site: Site, network: Network) -> list[str]:
    """Return the names of the running containers on a network."""
    return [
        row.name
        for row in container_rows.list_all(site.state, ("starting", *LIVE))
        if row.choice.joins == network.name and row.spec.modes.get("net", "private") == "private"
    ]


def repair(site: Site) -> list[str]:
    """Have the drivers restore what running containers' networks lost, for example to a reload of the firewall.

    Returns:
        A sentence for each container that could not be helped.
    """
    problems = []
    for row in container_rows.list_all(site.state, LIVE):
        stored = row.records.get("network") or {}
        if not stored.get("request") or not stored.get("attachment"):
            continue
        try:
            _mend(site, row)
        except (PlugengineError, OSError) as exc:
            problems.append(f"container {row.name}: its network could not be restored: {exc}")
    return problems


def _mend(site: Site, row: ContainerRow) -> None:
    stored = row.records["network"]
    request = msgspec.convert(stored["request"], NetworkRequest)
    attachment = msgspec.convert(stored["attachment"], Attachment)
    driver = site.drivers(row.choice).network
    with in_use(site, request.network.name):
        driver.create(request.network)
        if attachment.ports:
            attachment = driver.ports(msgspec.structs.replace(request, ports=attachment.ports), attachment)
    records = {**row.records, "network": {**stored, "attachment": encode(attachment)}}
    if records != row.records:
        container_rows.update(site.state, row.id, expect=LIVE, records=records)


def default_network(site: Site, driver: NetworkDriver) -> Network:
    """Return the network named like its driver, made if it is not there."""
    wants_addresses = Capability.ADDRESSES in driver.info.capabilities
    return ipam.ensure_network(
        site.state,
        driver.name,
        driver.name,
        wants_addresses=wants_addresses,
        host_subnets=ipam.host_subnets() if wants_addresses else (),
    )


def rows(site: Site) -> list[NetworkRow]:
    """Return every network, with what its driver made of it."""
    return ipam.list_networks(site.state)


def list_all(site: Site, driver: str) -> tuple[Network, ...]:
    """Return the networks of one driver."""
    return tuple(row.network for row in ipam.list_networks(site.state) if row.network.driver == driver)


def keep_record(site: Site, network: Network, record: Record) -> None:
    """Remember what the driver made, if that is news."""
    if ipam.get_network(site.state, network.name).record != record:
        ipam.store_record(site.state, network.name, record)


@contextmanager
def in_use(site: Site, name: str) -> Iterator[None]:
    """Hold a network while connecting to it: shared by all who connect, against its removal."""
    fd = _lock_file(site, name)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def remove_if_idle(site: Site, network: Network, driver: NetworkDriver) -> None:
    """Remove a driver's own network nobody has an address of, unless somebody is connecting just now."""
    if network.name != network.driver or network.subnet is None or _leased(site, network):
        return
    with _alone_with(site, network) as alone:
        if not alone:
            return
        try:
            stored = ipam.get_network(site.state, network.name)
        except NotFoundError:
            return
        if _leased(site, network):
            return
        driver.remove(network, stored.record)
        ipam.remove_network(site.state, network.name)


@contextmanager
def _alone_with(site: Site, network: Network) -> Iterator[bool]:
    """Keep others from connecting to a network; False: somebody is at it just now."""
    fd = _lock_file(site, network.name)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _leased(site: Site, network: Network) -> bool:
    return bool(site.state.query("SELECT 1 FROM leases WHERE network = ? LIMIT 1", (network.name,)))


def _lock_file(site: Site, name: str) -> int:
    path = os.path.join(site.locations.run_root, f"network-{name}.lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
