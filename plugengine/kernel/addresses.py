"""Give an interface of the current network namespace its IPv4 address and a default route; netdevice(7), route(8).

The ioctls are old but leave nothing behind. A netlink socket would do the same, yet is freed a grace period of RCU
after it is closed (netlink_release, call_rcu), and until then keeps its network namespace alive: one that is used to
set a container up delays the end of a short container's network by 10 to 40 ms.
"""

from __future__ import annotations

import socket
import struct

from plugengine.kernel.libc import ioctl
from plugengine.kernel.links import IFF_UP, IFNAMSIZ, SIOCGIFFLAGS, SIOCSIFFLAGS

# include/uapi/linux/sockios.h
SIOCADDRT = 0x890B
SIOCSIFADDR = 0x8916
SIOCSIFBRDADDR = 0x891A
SIOCSIFNETMASK = 0x891C

# include/uapi/linux/route.h
RTF_UP = 0x0001
RTF_GATEWAY = 0x0002

_BITS = 32
# A locally administered address, as docker's: the second bit of the first byte is set.
_MAC_PREFIX = bytes((0x02, 0x42))
_SOCKADDR_IN = struct.Struct("=HH4s8x")
_IFREQ_ADDRESS = struct.Struct(f"{IFNAMSIZ}s{_SOCKADDR_IN.size}s8x")
_IFREQ_FLAGS = struct.Struct(f"{IFNAMSIZ}sH22x")
# struct rtentry: rt_pad1; rt_dst, rt_gateway, rt_genmask; rt_flags, rt_pad2, rt_pad3, rt_pad4, rt_metric; rt_dev,
# rt_mtu, rt_window, rt_irtt
_RTENTRY = struct.Struct("@L16s16s16sHhLPhPLLH0L")


class InterfaceSocket:
    """A socket to configure interfaces through, of the network namespace it was made in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()

    def up(self, name: str) -> None:
        """SIOCSIFFLAGS: raise IFF_UP."""
        interface = _interface(name)
        buffer = bytearray(_IFREQ_FLAGS.pack(interface, 0))
        ioctl(self._socket.fileno(), SIOCGIFFLAGS, buffer, name)
        _, flags = _IFREQ_FLAGS.unpack(buffer)
        buffer = bytearray(_IFREQ_FLAGS.pack(interface, flags | IFF_UP))
        ioctl(self._socket.fileno(), SIOCSIFFLAGS, buffer, name)

    def set_address(self, name: str, address: bytes, prefix_length: int) -> None:
        """SIOCSIFADDR and what belongs to it: make this the first address of the interface.

        Args:
            name: The interface; it may be down.
            address: Four bytes, in network byte order.
            prefix_length: Bits of the network, 0 to 32.
        """
        hosts = (1 << (_BITS - prefix_length)) - 1
        mask = (~hosts & (1 << _BITS) - 1).to_bytes(len(address), "big")
        broadcast = (int.from_bytes(address, "big") | hosts).to_bytes(len(address), "big")
        self._set(SIOCSIFADDR, name, address)
        self._set(SIOCSIFNETMASK, name, mask)
        if hosts > 1:
            self._set(SIOCSIFBRDADDR, name, broadcast)

    def add_default_route(self, gateway: bytes) -> None:
        """SIOCADDRT: send what has no other route to a gateway the namespace has a route to.

        Raises:
            OSError: EEXIST: there is a default route; ENETUNREACH: the gateway is not in reach of any interface.
        """
        nowhere, place = _sockaddr(bytes(len(gateway))), _sockaddr(gateway)
        entry = _RTENTRY.pack(0, nowhere, place, nowhere, RTF_UP | RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0)
        ioctl(
            self._socket.fileno(),
            SIOCADDRT,
            bytearray(entry),
            f"default via {socket.inet_ntop(socket.AF_INET, gateway)}",
        )

    def _set(self, call: int, name: str, address: bytes) -> None:
        buffer = bytearray(_IFREQ_ADDRESS.pack(_interface(name), _sockaddr(address)))
        ioctl(self._socket.fileno(), call, buffer, f"{socket.inet_ntop(socket.AF_INET, address)} on {name}")


def mac_of(address: str) -> str:
    """Return the hardware address that goes with an IPv4 address, so that ARP caches stay right."""
    return format_mac(_MAC_PREFIX + socket.inet_pton(socket.AF_INET, address))


def parse_mac(text: str) -> bytes:
    """Return the six bytes of `02:42:0a:58:00:02`.

    Raises:
        ValueError: It is not a size, or one that no single interface can have.
    """
    parts = text.replace("-", ":").split(":")
    if len(parts) != len("123456") or not all(len(part) == len("00") for part in parts):
        raise ValueError(f"hardware address {text!r}: not of the form 02:42:0a:58:00:02")
    mac = bytes.fromhex("".join(parts))
    if mac[0] & 1 or not any(mac):
        raise ValueError(f"hardware address {text!r}: a group's, not an interface's")
    return mac


def format_mac(mac: bytes) -> str:
    """Return `02:42:0a:58:00:02`."""
    return mac.hex(":")


def _sockaddr(address: bytes) -> bytes:
    return _SOCKADDR_IN.pack(socket.AF_INET, 0, address)


def _interface(name: str) -> bytes:
    interface = name.encode()
    if len(interface) >= IFNAMSIZ:
        raise ValueError(f"interface name {name!r} is longer than {IFNAMSIZ - 1} bytes")
    return interface
