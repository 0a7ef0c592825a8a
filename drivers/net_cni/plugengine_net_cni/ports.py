"""Choose ports of the host, and see that nobody has them; the plugins themselves do not look."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from plugengine.errors import ConflictError, UsageError
from plugengine.kernel.ports import PROTOCOLS, try_bind
from plugengine.model import Port

_ANY = "0.0.0.0"  # noqa: S104 - what -p means without an address


def choose(wanted: Sequence[Port], taken: Iterable[Port]) -> tuple[Port, ...]:
    """Return the ports with free ones in place of 0.

    Args:
        wanted: As asked for.
        taken: Those of other containers; not looked at when none is wanted.

    Raises:
        ConflictError: One is taken; the message names it.
    """
    others = list(taken) if wanted else []
    chosen: list[Port] = []
    for port in wanted:
        if port.protocol not in PROTOCOLS:
            raise UsageError(f"publish port {port.guest_port}: protocol {port.protocol} is not tcp, udp or sctp")
        asked = msgspec.structs.replace(port, host_ip=port.host_ip or _ANY)
        if any(_meet(asked, other) for other in (*others, *chosen) if asked.host_port):
            raise ConflictError(f"publish port {_name(asked)}: it is published by another container")
        chosen.append(_bound(asked, [*others, *chosen]))
    return tuple(chosen)


def mappings(ports: Iterable[Port]) -> list[dict[str, Any]]:
    """Return the argument of the capability portMappings."""
    return [
        {
            "hostPort": port.host_port,
            "containerPort": port.guest_port,
            "protocol": port.protocol,
            **({"hostIP": port.host_ip} if port.host_ip not in ("", _ANY) else {}),
        }
        for port in ports
    ]


def _bound(port: Port, others: list[Port]) -> Port:
    """Return the port after bind(2) found it free; a 0 becomes the number bind(2) gave."""
    for _ in range(100):
        try:
            number = try_bind(port.protocol, port.host_ip, port.host_port)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"publish port {_name(port)}: a program on this host is using it",
                    hint=f"find it with: ss -lp sport = {port.host_port}",
                ) from None
            raise UsageError(f"publish port {_name(port)}: {os.strerror(exc.errno or 0)}") from exc
        found = msgspec.structs.replace(port, host_port=number)
        if not any(_meet(found, other) for other in others):
            return found
    raise ConflictError(f"publish port {port.guest_port}: no free port of the host was found")


def _meet(one: Port, other: Port) -> bool:
    same = (one.host_port, one.protocol) == (other.host_port, other.protocol)
    return same and (one.host_ip == other.host_ip or _ANY in (one.host_ip, other.host_ip))


def _name(port: Port) -> str:
    return f"{port.host_ip}:{port.host_port}/{port.protocol}"
