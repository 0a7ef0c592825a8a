"""Ports of the current network namespace, as programs and published ports share them."""

from __future__ import annotations

import errno
import socket

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


def try_bind(protocol: str, address: str, number: int) -> int:
    """bind(2) a port and let it go; return its number, which for 0 is a free one of the ephemeral range.

    Args:
        protocol: One of `PROTOCOLS`.
        address: IPv4 or IPv6.
        number: 0 to 65535.

    Raises:
        OSError: EADDRINUSE: a program has the port; EADDRNOTAVAIL: the address is not one of this namespace.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        probe = socket.socket(family, kind, PROTOCOLS[protocol])
    except OSError as exc:
        if exc.errno != errno.EPROTONOSUPPORT:
            raise
        # The host has no such protocol, so no program can be using its ports; any number is as good.
        return number or try_bind("tcp", address, 0)
    with probe:
        if protocol != "udp":
            # Old connections in TIME_WAIT are no reason to refuse, a listener is one all the same; socket(7).
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, number))
        return int(probe.getsockname()[1])
