"""The options of a network, checked."""

from __future__ import annotations

import errno
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from plugengine.errors import UsageError
from plugengine.model import Option, OptionKind

_MAX_VNI: Final = (1 << 24) - 1
_MAX_PORT: Final = (1 << 16) - 1
_MIN_MTU: Final = 68  # RFC 791
_ETHERNET_MTU: Final = 1500
_OVERHEAD: Final = 50  # outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14
_MAX_MTU: Final = _MAX_PORT - _OVERHEAD
_IP_MTU: Final = 14  # include/uapi/linux/in.h; ip(7)

OPTIONS: Final = (
    Option(
        name="vni",
        kind=OptionKind.INTEGER,
        least=1,
        most=_MAX_VNI,
        help="number of the network, the same on every host; else made of its name",
    ),
    Option(name="peers", default="", help="IPv4 addresses of the other hosts, separated by commas"),
    Option(
        name="port",
        kind=OptionKind.INTEGER,
        least=1,
        most=_MAX_PORT,
        default="4789",
        help="UDP port, the same on every host",
    ),
    Option(
        name="mtu",
        kind=OptionKind.INTEGER,
        least=_MIN_MTU,
        most=_MAX_MTU,
        help="largest packet in bytes; else what the way to the peers takes, less 50",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the options of a network say."""

    vni: int
    peers: tuple[str, ...]
    port: int
    mtu: int | None

    @classmethod
    def of(cls, network: str, options: Mapping[str, Any]) -> Settings:
        """Read the options of a network.

        Raises:
            UsageError: A peer is no address.
        """
        return cls(
            vni=options["vni"] or 1 + zlib.crc32(network.encode()) % _MAX_VNI,
            peers=_peers(f"network {network}", options["peers"]),
            port=options["port"],
            mtu=options["mtu"],
        )

    def best_mtu(self) -> int:
        """Return the largest packet that reaches every peer in one piece, as far as this host knows."""
        if self.mtu is not None:
            return self.mtu
        return min(_MAX_MTU, *(_way_to(peer, self.port) - _OVERHEAD for peer in self.peers or ("",)))


def _way_to(peer: str, port: int) -> int:
    """Return the largest packet on the way to a host; no route, or no host: Ethernet's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            if peer:
                probe.connect((peer, port))  # sends nothing
                return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError as exc:
            if exc.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                raise
    return _ETHERNET_MTU


def _peers(about: str, text: str) -> tuple[str, ...]:
    found = [word.strip() for word in text.split(",") if word.strip()]
    for peer in found:
        try:
            socket.inet_pton(socket.AF_INET, peer)
        except OSError:
            raise UsageError(f"{about}: peer {peer}: not an IPv4 address", hint="peers=10.0.0.2,10.0.0.3") from None
    return tuple(dict.fromkeys(found))
