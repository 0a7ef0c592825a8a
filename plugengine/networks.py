"""The rows of networks: made at first use, removed with the last container that used them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from plugengine import ipam
from plugengine.container_rows import ContainerRow
from plugengine.drivers import NetworkDriver
from plugengine.errors import NotFoundError
from plugengine.model import Capability, Network, Record
from plugengine.site import Site


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


def imagined_network(site: Site, driver: NetworkDriver) -> Network:
    """Return the network a container would be connected to, without making it: one that is not there has no subnet."""
    found = next((each for each in list_all(site, driver.name) if each.name == driver.name), None)
    return found or Network(name=driver.name, driver=driver.name, subnet=None, gateway=None)


def of_container(site: Site, row: ContainerRow) -> Network | None:
    """Return the network of a container, also of one that had only begun to connect."""
    stored = (row.records.get("network") or {}).get("network")
    if stored:
        return msgspec.convert(stored, Network)
    if row.spec.modes.get("net", "private") != "private":
        return None
    return next((each for each in list_all(site, row.choice.network) if each.name == row.choice.network), None)


def list_all(site: Site, driver: str) -> tuple[Network, ...]:
    """Return the networks of one driver."""
    return tuple(row.network for row in ipam.list_networks(site.state) if row.network.driver == driver)


def keep_record(site: Site, network: Network, record: Record) -> None:
    """Remember what the driver made, if that is news."""
    if ipam.get_network(site.state, network.name).record != record:
        ipam.store_record(site.state, network.name, record)


@contextmanager
def in_use(site: Site, network: Network) -> Iterator[None]:
    """Hold a network while connecting to it: shared by all who connect, against its removal."""
    fd = _lock_file(site, network)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def remove_if_idle(site: Site, network: Network, driver: NetworkDriver) -> None:
    """Remove the host's side of a network nobody has an address of, unless somebody is connecting just now."""
    if network.subnet is None or _leased(site, network):
        return
    fd = _lock_file(site, network)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            stored = ipam.get_network(site.state, network.name)
        except NotFoundError:
            return
        if _leased(site, network):
            return
        driver.remove(network, stored.record or {})
        ipam.remove_network(site.state, network.name)
    finally:
        os.close(fd)


def _leased(site: Site, network: Network) -> bool:
    return bool(site.state.query("SELECT 1 FROM leases WHERE network = ? LIMIT 1", (network.name,)))


def _lock_file(site: Site, network: Network) -> int:
    path = os.path.join(site.locations.run_root, f"network-{network.name}.lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
