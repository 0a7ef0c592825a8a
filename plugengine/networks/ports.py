"""Ports of the host, leased to containers whatever driver publishes them: chosen, kept apart, given back."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from typing import Final

import msgspec

from plugengine.errors import ConflictError, UsageError
from plugengine.kernel.ports import PROTOCOLS, try_bind
from plugengine.model import Port, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from plugengine.state.state import State

_LARGEST: Final = 0xFFFF
_EVERY: Final = ""  # every address of the host, of both families
_EVERY_OF_FAMILY: Final = ("0.0.0.0", "::")  # noqa: S104 - the notation
_TRIES: Final = 500  # for a free port: the kernel offers one of thousands


def lease(state: State, container_id: str, wanted: Sequence[Port], avoid: Collection[Port] = ()) -> tuple[Port, ...]:
    """Lease host ports to a container, in place of what it had.

    Fixed ports are leased first, then those of a range, then those that may be any.

    Args:
        state: The state database.
        container_id: Whose they will be.
        wanted: Host port 0, or a range, asks for a free one.
        avoid: Ports not to choose: somebody has them whom neither the database nor bind(2) knows of.

    Returns:
        The ports in the order asked for, each with one host port.

    Raises:
        ConflictError: A port is another container's, or a program's; or none of a range is free.
        UsageError: A number, an address or a protocol that is none.
    """
    asked = [_normalised(port) for port in wanted]
    with state.transaction() as cursor:
        cursor.execute("DELETE FROM ports WHERE container_id = ?", (container_id,))
        taken = _Taken(cursor, container_id)
        chosen: dict[int, Port] = {}
        for index, port in sorted(enumerate(asked), key=lambda pair: _freedom(pair[1])):
            chosen[index] = _choose(port, taken, avoid)
            taken.add(chosen[index])
            cursor.execute(
                "INSERT INTO ports (protocol, host_port, host_ip, container_id) VALUES (?, ?, ?, ?)",
                (port.protocol, chosen[index].host_port, port.host_ip, container_id),
            )
    return tuple(chosen[index] for index in range(len(asked)))


def release(state: State, container_id: str) -> None:
    """Give a container's ports back; none to give back is fine."""
    if state.query("SELECT 1 FROM ports WHERE container_id = ? LIMIT 1", (container_id,)):
        with state.transaction() as cursor:
            cursor.execute("DELETE FROM ports WHERE container_id = ?", (container_id,))


def is_flexible(port: Port) -> bool:
    """Tell whether another host port would do as well."""
    return port.host_port == 0 or port.host_port_last > port.host_port


def name(port: Port) -> str:
    """Return how messages name a published port."""
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip or _EVERY_OF_FAMILY[0]
    return f"{address}:{port.host_port}/{port.protocol}"


class _Taken:
    """The ports other containers have, and those chosen for this one."""

    def __init__(self, cursor: sqlite3.Cursor, container_id: str) -> None:
        self._cursor = cursor
        self._container_id = container_id
        self._own: list[Port] = []

    def add(self, port: Port) -> None:
        """Remember one chosen."""
        self._own.append(port)

    def holder(self, port: Port) -> str | None:
        """Return in words who has a port; None: nobody."""
        if any(_meet(port, other) for other in self._own):
            return "the same container"
        rows = self._cursor.execute(
            "SELECT host_ip, container_id, name FROM ports LEFT JOIN containers ON containers.id = container_id"
            " WHERE protocol = ? AND host_port = ?",
            (port.protocol, port.host_port),
        )
        for row in rows:
            if row["container_id"] != self._container_id and _addresses_meet(port.host_ip, row["host_ip"]):
                return f"container {row['name'] or short_id(row['container_id'])}"
        return None


def _freedom(port: Port) -> int:
    return 0 if not is_flexible(port) else 2 if port.host_port == 0 else 1


def _choose(port: Port, taken: _Taken, avoid: Collection[Port]) -> Port:
    flexible = is_flexible(port)
    for number in _numbers(port):
        found = msgspec.structs.replace(port, host_port=number, host_port_last=0)
        holder = taken.holder(found)
        if flexible and (holder or any(_meet(found, other) for other in avoid)):
            continue
        if holder:
            raise ConflictError(
                f"publish port {name(found)}: it is published by {holder}",
                hint="choose another port, or let pe choose one: -p " + str(port.guest_port),
            )
        if _is_free(found):
            return found
        if not flexible:
            raise ConflictError(
                f"publish port {name(found)}: a program on this host is using it",
                hint=f"find it with: ss -lp sport = {number}",
            )
    if port.host_port == 0:
        raise ConflictError(
            f"publish port {port.guest_port}/{port.protocol}: no port of this host is free",
            hint="see net.ipv4.ip_local_port_range",
        )
    raise ConflictError(
        f"publish port {port.guest_port}/{port.protocol}: none of the host's ports "
        f"{port.host_port} to {port.host_port_last} is free"
    )


def _numbers(port: Port) -> Iterator[int]:
    """Yield what may be tried: the number, those of the range, or what the kernel takes for free."""
    if port.host_port:
        yield from range(port.host_port, max(port.host_port, port.host_port_last) + 1)
        return
    for _ in range(_TRIES):
        yield _bound(port)


def _is_free(port: Port) -> bool:
    try:
        _bound(port)
    except _InUseError:
        return False
    return True


class _InUseError(Exception):
    """A program has the port."""


def _bound(port: Port) -> int:
    """Bind a port and let it go; return its number, for 0 that of a free one."""
    try:
        return try_bind(port.protocol, port.host_ip or _EVERY_OF_FAMILY[0], port.host_port)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise _InUseError from exc
        hint = "no interface of this host has the address" if exc.errno == errno.EADDRNOTAVAIL else None
        raise ConflictError(f"publish port {name(port)}: {os.strerror(exc.errno or 0).lower()}", hint=hint) from exc


def _normalised(port: Port) -> Port:
    if port.protocol not in PROTOCOLS:
        raise UsageError(f"publish port {port.guest_port}: protocol {port.protocol!r} is not tcp, udp or sctp")
    last = port.host_port_last or port.host_port
    if not (0 <= port.host_port <= last <= _LARGEST and 1 <= port.guest_port <= _LARGEST):
        raise UsageError(f"publish port {port.host_port}:{port.guest_port}: not within 1 to {_LARGEST}")
    return msgspec.structs.replace(port, host_ip=_canonical(port.host_ip))


def _canonical(address: str) -> str:
    if address == _EVERY:
        return address
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address))
    except (OSError, ValueError):
        raise UsageError(f"publish a port on {address!r}: not an IP address") from None


def _meet(one: Port, other: Port) -> bool:
    same = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    return same and _addresses_meet(one.host_ip, other.host_ip)


def _addresses_meet(one: str, other: str) -> bool:
    """Tell whether a packet can be for both: the same address, or one of those the other stands for."""
    if one == other or _EVERY in (one, other):
        return True
    return (":" in one) == (":" in other) and (one in _EVERY_OF_FAMILY or other in _EVERY_OF_FAMILY)
