"""The networks' rows of the state database, their subnets, and the leases of addresses."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from plugengine.errors import ConflictError, NotFoundError, UsageError
from plugengine.model import Network
from plugengine.networks.addresses import format_address, format_cidr, hosts, overlap, parse_address, parse_cidr
from plugengine.state.names import check_name, near_miss

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from plugengine.model import Record
    from plugengine.state.state import State

_ROUTES: Final = "/proc/net/route"
_DESTINATION, _MASK = 1, 7  # columns of that file
# With so many taken in a row after the last lease, all leases are read at once.
_SINGLE_PROBES: Final = 16


class NetworkRow(Struct, frozen=True, kw_only=True):
    """One network and what its driver made of it."""

    network: Network
    record: dict[str, Any] | None  # None: the driver has not made its side


# --- networks ----------------------------------------------------------------------------------------------


def ensure_network(
    state: State, name: str, driver: str, *, wants_addresses: bool, host_subnets: Iterable[str] = ()
) -> Network:
    """Return the network of that name, made with the first free subnet when there is none.

    Args:
        state: The state database.
        name: The network's name.
        driver: The driver it belongs to.
        wants_addresses: Give it a subnet (the driver claims ADDRESSES).
        host_subnets: CIDRs that must not be used; see `host_subnets`.

    Raises:
        ConflictError: The name belongs to another driver's network, or no subnet is free.
        UsageError: The name is not allowed.
    """
    check_name(name, what="network")
    taken = [parse_cidr(each) for each in host_subnets]
    with state.transaction() as cursor:
        found = cursor.execute("SELECT driver, network FROM networks WHERE name = ?", (name,)).fetchone()
        if found is not None:
            if found["driver"] != driver:
                raise ConflictError(f"network {name}: belongs to driver {found['driver']}, not to {driver}")
            return _network(state, found["network"])
        subnet = _free_subnet(cursor, taken) if wants_addresses else None
        network = Network(
            name=name,
            driver=driver,
            subnet=subnet,
            gateway=_gateway(subnet) if subnet is not None else None,
            owner=state.root,
        )
        text = msgspec.json.encode(network).decode()
        cursor.execute("INSERT INTO networks (name, driver, network) VALUES (?, ?, ?)", (name, driver, text))
        return network


def add_network(state: State, network: Network) -> Network:
    """Store a network somebody asks for; one without a subnet stays without.

    Raises:
        ConflictError: The name is taken, or the subnet overlaps another network's.
        UsageError: The name is not allowed, or an address is not one of the subnet.
    """
    check_name(network.name, what="network")
    _check_addresses(network)
    with state.transaction() as cursor:
        if cursor.execute("SELECT 1 FROM networks WHERE name = ?", (network.name,)).fetchone():
            raise ConflictError(f"network {network.name}: there is one of that name already")
        for row in cursor.execute("SELECT name, network FROM networks"):
            other = msgspec.json.decode(row["network"], type=Network).subnet
            if network.subnet and other and overlap(parse_cidr(network.subnet), parse_cidr(other)):
                raise ConflictError(f"network {network.name}: {network.subnet} overlaps {other} of {row['name']}")
        text = msgspec.json.encode(network).decode()
        cursor.execute(
            "INSERT INTO networks (name, driver, network) VALUES (?, ?, ?)", (network.name, network.driver, text)
        )
    return network


def complete(state: State, network: Network, *, host_subnets: Iterable[str]) -> Network:
    """Return a network with a free subnet and a gateway in place of those not given."""
    subnet = network.subnet
    if subnet is None:
        with state.transaction() as cursor:
            subnet = _free_subnet(cursor, [parse_cidr(each) for each in host_subnets])
    gateway = network.gateway or _gateway(subnet)
    return msgspec.structs.replace(network, subnet=subnet, gateway=gateway)


def _check_addresses(network: Network) -> None:
    if network.subnet is None:
        return
    first, last = hosts(parse_cidr(network.subnet))
    if network.gateway is not None and not first <= parse_address(network.gateway) <= last:
        raise UsageError(f"network {network.name}: gateway {network.gateway} is not in {network.subnet}")
    if network.ip_range is not None:
        begin, end = hosts(parse_cidr(network.ip_range))
        if not first <= begin <= end <= last:
            raise UsageError(f"network {network.name}: range {network.ip_range} is not in {network.subnet}")


def get_network(state: State, name: str) -> NetworkRow:
    """Return one network.

    Raises:
        NotFoundError: There is none of that name.
    """
    for row in state.query("SELECT * FROM networks WHERE name = ?", (name,)):
        return _decode(state, row)
    names = [row["name"] for row in state.query("SELECT name FROM networks")]
    raise NotFoundError(f"network {name}: no such network", hint=near_miss(name, names))


def list_networks(state: State) -> list[NetworkRow]:
    """Return all networks by name."""
    return [_decode(state, row) for row in state.query("SELECT * FROM networks ORDER BY name")]


def store_record(state: State, name: str, record: Record | None) -> None:
    """Remember what a network's driver made; None: it was removed again."""
    text = None if record is None else msgspec.json.encode(record).decode()
    with state.transaction() as cursor:
        cursor.execute("UPDATE networks SET record = ? WHERE name = ?", (text, name))


def remove_network(state: State, name: str) -> None:
    """Forget a network; one that is not there counts as removed.

    Raises:
        ConflictError: A container has a lease on it.
    """
    with state.transaction() as cursor:
        used = cursor.execute("SELECT container_id FROM leases WHERE network = ? LIMIT 1", (name,)).fetchone()
        if used is not None:
            raise ConflictError(f"network {name}: in use by container {used['container_id']}")
        cursor.execute("DELETE FROM networks WHERE name = ?", (name,))


def host_subnets() -> tuple[str, ...]:
    """Return the subnets this machine has routes to, default routes left out."""
    with open(_ROUTES, encoding="ascii") as stream:
        return parse_routes(stream)


def parse_routes(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the destinations in a /proc/net/route but for default routes; see net/ipv4/fib_trie.c."""
    found = []
    for line in islice(lines, 1, None):
        columns = line.split()
        address, mask = _swapped(columns[_DESTINATION]), _swapped(columns[_MASK])
        if mask:
            found.append(format_cidr(address, mask.bit_count()))
    return tuple(found)


def _swapped(text: str) -> int:
    """Return an address of /proc/net/route, which shows the four bytes as they lie in memory."""
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder), "big")


def _decode(state: State, row: sqlite3.Row) -> NetworkRow:
    record = None if row["record"] is None else msgspec.json.decode(row["record"], type=dict[str, Any])
    return NetworkRow(network=_network(state, row["network"]), record=record)


def _network(state: State, text: str) -> Network:
    return msgspec.structs.replace(msgspec.json.decode(text, type=Network), owner=state.root)


def _pools() -> Iterator[str]:
    yield from (f"10.{number}.0.0/16" for number in range(88, 256))
    yield from (f"172.{number}.0.0/16" for number in range(16, 32))
    yield from (f"192.168.{number}.0/24" for number in range(256))


def _free_subnet(cursor: sqlite3.Cursor, taken: list[tuple[int, int]]) -> str:
    for row in cursor.execute("SELECT network FROM networks"):
        other = msgspec.json.decode(row["network"], type=Network)
        if other.subnet is not None:
            taken.append(parse_cidr(other.subnet))
    for pool in _pools():
        if not any(overlap(parse_cidr(pool), other) for other in taken):
            return pool
    raise ConflictError(
        "network: no private subnet is free", hint="remove a network, or give one its subnet with --subnet"
    )


def _gateway(subnet: str) -> str:
    return format_address(parse_cidr(subnet)[0] + 1)


# --- leases ------------------------------------------------------------------------------------------------


def lease(state: State, network: Network, container_id: str, wanted: str | None = None) -> str:
    """Lease an address to a container.

    The search goes on after the last lease, so that an address is not given away again at once, while others
    still remember whose it was. A container that has a lease on this network keeps it.

    Args:
        state: The state database.
        network: A network with a subnet.
        container_id: Whose lease it is.
        wanted: This very address.

    Returns:
        The address with the length of the subnet's prefix, "10.88.0.2/16".

    Raises:
        ConflictError: The wanted address is taken, reserved or outside the subnet; or no address is free.
        UsageError: The wanted address is no IPv4 address.
        NotFoundError: The network is gone.
    """
    if network.subnet is None:
        raise UsageError(f"network {network.name}: has no subnet to lease from")
    _, length = parse_cidr(network.subnet)
    asked = None if wanted is None else _wanted(network, wanted)
    with state.transaction() as cursor:
        row = cursor.execute("SELECT last_lease FROM networks WHERE name = ?", (network.name,)).fetchone()
        if row is None:
            raise NotFoundError(f"network {network.name}: no such network")
        mine = cursor.execute(
            "SELECT address FROM leases WHERE network = ? AND container_id = ?", (network.name, container_id)
        ).fetchone()
        if mine is not None and wanted in (None, mine["address"]):
            return f"{mine['address']}/{length}"
        if asked is None:
            address = _next_free(cursor, network, row["last_lease"])
            cursor.execute("UPDATE networks SET last_lease = ? WHERE name = ?", (address, network.name))
        else:
            address = format_address(asked)
            owner = _owner(cursor, network, address)
            if owner is not None:
                raise ConflictError(f"address {address} of network {network.name}: in use by container {owner}")
        cursor.execute("INSERT INTO leases VALUES (?, ?, ?)", (network.name, address, container_id))
    return f"{address}/{length}"


def release(state: State, container_id: str, *, network: str | None = None) -> None:
    """Give the leases of a container back, all or those of one network; none to give back is fine."""
    with state.transaction() as cursor:
        cursor.execute(
            "DELETE FROM leases WHERE container_id = ?1 AND (?2 IS NULL OR network = ?2)", (container_id, network)
        )


def leases(state: State, network: str) -> Mapping[str, str]:
    """Return address to container id, for one network."""
    rows = state.query("SELECT address, container_id FROM leases WHERE network = ?", (network,))
    return {row["address"]: row["container_id"] for row in rows}


def gc(state: State) -> list[str]:
    """Give back leases of containers that do not exist; return a line for each."""
    with state.transaction() as cursor:
        rows = cursor.execute(
            "DELETE FROM leases WHERE container_id NOT IN (SELECT id FROM containers) RETURNING *"
        ).fetchall()
    return [f"lease {row['address']} of container {row['container_id']}" for row in rows]


def _wanted(network: Network, text: str) -> int:
    address = parse_address(text)
    first, last = hosts(parse_cidr(network.subnet or ""))
    if not first <= address <= last:
        raise ConflictError(
            f"address {text}: not one of network {network.name}",
            hint=f"{format_address(first)} to {format_address(last)}",
        )
    if text == network.gateway:
        raise ConflictError(f"address {text}: is the gateway of network {network.name}")
    return address


def _owner(cursor: sqlite3.Cursor, network: Network, address: str) -> str | None:
    query = "SELECT container_id FROM leases WHERE network = ? AND address = ?"
    row = cursor.execute(query, (network.name, address)).fetchone()
    return None if row is None else str(row["container_id"])


def _next_free(cursor: sqlite3.Cursor, network: Network, last_lease: str | None) -> str:
    candidates = _candidates(network, last_lease)
    for candidate in islice(candidates, _SINGLE_PROBES):
        if _owner(cursor, network, candidate) is None:
            return candidate
    rows = cursor.execute("SELECT address FROM leases WHERE network = ?", (network.name,))
    taken = {row["address"] for row in rows}
    for candidate in candidates:
        if candidate not in taken:
            return candidate
    raise ConflictError(
        f"network {network.name}: all {len(taken)} addresses of {network.ip_range or network.subnet} are in use",
        hint="remove containers that are no longer needed, or use another network",
    )


def _range(network: Network) -> tuple[int, int]:
    """Return the first and last address to lease; a range may begin and end with what no subnet could."""
    first, last = hosts(parse_cidr(network.subnet or ""))
    if network.ip_range is None:
        return first, last
    begin, length = parse_cidr(network.ip_range)
    return max(first, begin), min(last, begin | ((1 << 32 - length) - 1))


def _candidates(network: Network, last_lease: str | None) -> Iterator[str]:
    """Yield every address but the gateway's once, from the one after the last lease on and around."""
    first, last = _range(network)
    begin = first if last_lease is None else max(parse_address(last_lease) + 1, first)
    for address in chain(range(begin, last + 1), range(first, min(begin, last + 1))):
        text = format_address(address)
        if text != network.gateway:
            yield text
