"""Published ports: elements of two maps, found again by the container they name.

A port is served by the kernel alone: the destination is rewritten before routing, also for the host's own programs.
For 127.0.0.1 that needs `route_localnet` on the bridge. It is only set once such a port is published, after the rules
that drop every packet of 127.0.0.0/8 that arrives over a bridge (CVE-2020-8558). No proxy process, no open socket.

Whether a port is free: no element may be there for it (two processes that ask at once are told apart by the rule set's
generation), and the host must let us bind it, which is tried and undone.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from plugengine.errors import ConflictError, DriverError, UsageError
from plugengine.kernel.netlink import NetlinkSocket
from plugengine.kernel.ports import PROTOCOLS, try_bind
from plugengine.model import Port, short_id

from plugengine_net_bridge import nft, table
from plugengine_net_bridge.names import split_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ANY = "0.0.0.0"  # noqa: S104 - the notation for every address of the host

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_MAX_PORT = 0xFFFF
_KEY = struct.Struct("!B3xH2x")  # registers are filled in fours: protocol, port
_KEY_AT = struct.Struct("!B3x4sH2x")  # protocol, address, port
_TARGET = struct.Struct("!4sH2x")  # address, port
# Every change of any rule of the host starts a new generation, so among many starts a few attempts are lost.
_ATTEMPTS = 500
_PAUSE_S = 0.001
# what a transaction that met another one says
_LOST = frozenset((errno.ERESTART, errno.EEXIST, errno.EBUSY, errno.ENOENT, errno.EAGAIN, errno.EINTR))


class Entry:
    """One published port as the maps hold it."""

    __slots__ = ("address", "owner", "port")

    def __init__(self, port: Port, address: str, owner: str) -> None:
        self.port = port
        self.address = address
        self.owner = owner

    @property
    def place(self) -> tuple[str, str, int]:
        """What can be there only once."""
        return self.port.protocol, self.port.host_ip, self.port.host_port

    @property
    def key(self) -> bytes:
        """The key in its map."""
        protocol = PROTOCOLS[self.port.protocol]
        if self.port.host_ip == ANY:
            return _KEY.pack(protocol, self.port.host_port)
        return _KEY_AT.pack(protocol, _packed(self.port.host_ip), self.port.host_port)

    @property
    def mapping(self) -> str:
        """Its map."""
        return table.PORTS if self.port.host_ip == ANY else table.PORTS_AT

    def element(self) -> bytes:
        """The element to add."""
        target = _TARGET.pack(_packed(self.address), self.port.guest_port)
        return nft.element(self.key, data=target, comment=self.owner)


def normalised(ports: Sequence[Port]) -> tuple[Port, ...]:
    """Return the ports with the host's address written one way; pure.

    Raises:
        UsageError: A port, address or protocol that can't be published.
    """
    return tuple(_normalised(port) for port in ports)


def replace(nf: NetlinkSocket, owner: str, address: str, wanted: Sequence[Port]) -> tuple[Port, ...]:
    """Make `wanted` the published ports of one container, in one transaction; return them with free ports chosen.

    Raises:
        ConflictError: One of them is taken; nothing has changed.
        DriverError: Others change the rules too often.
    """
    for attempt in range(_ATTEMPTS):
        generation = nft.generation(nf)
        entries = published(nf)
        own = [entry for entry in entries if entry.owner == owner]
        others = [entry for entry in entries if entry.owner != owner]
        chosen = _choose(owner, address, wanted, own, others)
        requests = [nft.delete_elements(table.TABLE, e.mapping, nft.element(e.key)) for e in own]
        requests += [nft.add_elements(table.TABLE, e.mapping, e.element(), exclusive=True) for e in chosen]
        if not requests:
            return ()
        try:
            nf.execute(*nft.batch(requests, generation=generation))
        except OSError as exc:
            if exc.errno not in _LOST:
                raise
            time.sleep(_PAUSE_S * min(attempt, 10))
        else:
            return tuple(entry.port for entry in chosen)
    raise DriverError(
        f"publish ports of container {split_owner(owner)[0]}: the packet filter changes too often",
        hint="another program rewrites the nftables rules all the time",
    )


def withdraw(nf: NetlinkSocket, entries: Sequence[Entry]) -> None:
    """Remove published ports."""
    for entry in entries:
        delete = nft.delete_elements(table.TABLE, entry.mapping, nft.element(entry.key))
        nf.execute(*nft.batch([delete]), accept=frozenset((errno.ENOENT,)))


def of_owner(nf: NetlinkSocket, owner: str) -> list[Entry]:
    """Return the published ports of one container."""
    return [entry for entry in published(nf) if entry.owner == owner]


def published(nf: NetlinkSocket) -> list[Entry]:
    """Return every published port of the host."""
    found = []
    for key, data, owner in table.elements(nf, table.PORTS):
        protocol, number = _KEY.unpack(key)
        found.append(_entry(protocol, ANY, number, data, owner))
    for key, data, owner in table.elements(nf, table.PORTS_AT):
        protocol, packed, number = _KEY_AT.unpack(key)
        found.append(_entry(protocol, socket.inet_ntop(socket.AF_INET, packed), number, data, owner))
    return found


def uses_loopback(ports: Sequence[Port]) -> bool:
    """Tell whether the host reaches one of them at 127.0.0.1."""
    return any(port.host_ip == ANY or port.host_ip.startswith("127.") for port in ports)


def _entry(protocol: int, host_ip: str, host_port: int, data: bytes, owner: str) -> Entry:
    packed, guest_port = _TARGET.unpack(data)
    name = _PROTOCOL_NAMES.get(protocol, str(protocol))
    port = Port(host_ip=host_ip, host_port=host_port, guest_port=guest_port, protocol=name)
    return Entry(port, socket.inet_ntop(socket.AF_INET, packed), owner)


def _normalised(port: Port) -> Port:
    if port.protocol not in PROTOCOLS:
        raise UsageError(f"publish port {port.host_port}: protocol {port.protocol!r} is not tcp, udp or sctp")
    if not 0 <= port.host_port <= _MAX_PORT or not 1 <= port.guest_port <= _MAX_PORT:
        raise UsageError(f"publish port {port.host_port}:{port.guest_port}: not within 1 to {_MAX_PORT}")
    host_ip = port.host_ip or ANY
    try:
        packed = _packed(host_ip)
    except OSError:
        raise UsageError(
            f"publish port {port.host_port} on {host_ip!r}: not an IPv4 address",
            hint="bridge networks are IPv4 only",
        ) from None
    return Port(
        host_ip=socket.inet_ntop(socket.AF_INET, packed),
        host_port=port.host_port,
        guest_port=port.guest_port,
        protocol=port.protocol,
    )


def _choose(
    owner: str, address: str, wanted: Sequence[Port], own: Sequence[Entry], others: Sequence[Entry]
) -> list[Entry]:
    """Return the entries to make, in the order asked for: fixed ports are checked before free ones are sought."""
    taken = {entry.place: entry.owner for entry in others}
    held = {entry.place for entry in own}
    chosen: dict[int, Entry] = {}
    for index, port in sorted(enumerate(wanted), key=lambda pair: pair[1].host_port == 0):
        if port.host_port == 0:
            entry = _free(port, address, owner, taken)
        else:
            entry = Entry(port, address, owner)
            _check_taken(entry, taken)
            if entry.place not in held:
                _check_host(entry)
        taken[entry.place] = owner
        chosen[index] = entry
    return [chosen[index] for index in range(len(wanted))]


def _free(port: Port, address: str, owner: str, taken: dict[tuple[str, str, int], str]) -> Entry:
    """Return an entry with a port the host picks from its ephemeral range."""
    for _ in range(_ATTEMPTS):
        number = try_bind(port.protocol, port.host_ip, 0)
        free = Port(host_ip=port.host_ip, host_port=number, guest_port=port.guest_port, protocol=port.protocol)
        entry = Entry(free, address, owner)
        if _holder(entry, taken) is None:
            return entry
    raise ConflictError(
        f"publish port {port.guest_port}/{port.protocol} of container {split_owner(owner)[0]}: no free port",
        hint="see net.ipv4.ip_local_port_range",
    )


def _holder(entry: Entry, taken: dict[tuple[str, str, int], str]) -> str | None:
    protocol, host_ip, number = entry.place
    if host_ip != ANY:
        return taken.get(entry.place) or taken.get((protocol, ANY, number))
    for (other_protocol, _, other_number), owner in taken.items():
        if (other_protocol, other_number) == (protocol, number):
            return owner
    return None


def _check_taken(entry: Entry, taken: dict[tuple[str, str, int], str]) -> None:
    holder = _holder(entry, taken)
    if holder is None:
        return
    container_id, _ = split_owner(holder)
    whose = "the same container" if holder == entry.owner else f"container {container_id}"
    raise ConflictError(
        f"publish port {_name(entry.port)}: it is published by {whose}",
        hint=f"choose another port, or end that container: pe stop {short_id(container_id)}",
    )


def _check_host(entry: Entry) -> None:
    try:
        try_bind(entry.port.protocol, entry.port.host_ip, entry.port.host_port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ConflictError(
                f"publish port {_name(entry.port)}: a program on this host is using it",
                hint=f"find it with: ss -lp sport = {entry.port.host_port}",
            ) from None
        raise OSError(exc.errno, os.strerror(exc.errno or 0), f"port {_name(entry.port)}") from exc


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, address)


def _name(port: Port) -> str:
    return f"{port.host_ip}:{port.host_port}/{port.protocol}"
