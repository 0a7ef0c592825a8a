"""The machine a network driver is tested on: a host's network namespace with one uplink, and the world at its end.

    host (the case's own namespace)                 outside (another namespace)
      lo                                              lo
      kit0  203.0.113.1/24  ------------------------  eth0  203.0.113.2/24, 198.51.100.1/32
      default via 203.0.113.2                               and the gateway's address of every network of the case

A driver that needs a parent interface is given `--option parent=kit0`: the world answers at the gateway's address like
the router of the segment. It knows no way back to a container that is only routed: there an address must be translated.
Nothing of it reaches the machine's own interfaces.
"""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import Final

from plugengine.kernel import rtnetlink
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.testing.network import view
from plugengine.testing.network.place import Place

UPLINK: Final = "kit0"  # for drivers with an option like "parent"
UPLINK_MTU: Final = 1500
HOST_ADDRESS: Final = "203.0.113.1"  # RFC 5737, documentation
WORLD_ADDRESS: Final = "203.0.113.2"  # the host's neighbour and default gateway
FAR_ADDRESS: Final = "198.51.100.1"  # behind the neighbour
SUBNET: Final = "203.0.113.0/24"
_LENGTH: Final = 24
_WORLD_LINK: Final = "eth0"
_WORLD_MAC: Final = bytes.fromhex("020000000002")

_CARRIER_TRIES: Final = 400
_CARRIER_PAUSE_S: Final = 0.005


class World:
    """The namespace at the other end of the uplink."""

    def __init__(self) -> None:
        self.place: Place = Place()
        self._aliases = 0
        _connect(self.place)
        with closing(InterfaceSocket()) as interfaces:
            interfaces.up("lo")
            interfaces.set_address(UPLINK, socket.inet_aton(HOST_ADDRESS), _LENGTH)
            interfaces.up(UPLINK)
        with self.place.inside(), closing(InterfaceSocket()) as interfaces:
            interfaces.up("lo")
            interfaces.set_address(_WORLD_LINK, socket.inet_aton(WORLD_ADDRESS), _LENGTH)
            interfaces.up(_WORLD_LINK)
        self.add_address(FAR_ADDRESS, 32)
        with closing(InterfaceSocket()) as interfaces:
            interfaces.add_default_route(socket.inet_aton(WORLD_ADDRESS))
        _await_carrier()

    def add_address(self, address: str, prefix_length: int) -> None:
        """Let the world answer at one more address."""
        self._aliases += 1
        with self.place.inside(), closing(InterfaceSocket()) as interfaces:
            interfaces.set_address(f"{_WORLD_LINK}:{self._aliases}", socket.inet_aton(address), prefix_length)

    def close(self) -> None:
        """Let it die, and the uplink with it, at once: the kernel would take some moments."""
        with NetlinkSocket(NETLINK_ROUTE) as route:
            rtnetlink.delete(route, UPLINK)
        self.place.close()


def _connect(outside: Place) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.execute(
            rtnetlink.new_veth(
                UPLINK, master=0, mtu=UPLINK_MTU, peer=_WORLD_LINK, peer_mac=_WORLD_MAC, netns=outside.fd
            )
        )


def _await_carrier() -> None:
    """Wait until frames pass: the first ones would be lost."""
    for _ in range(_CARRIER_TRIES):
        if view.links()[UPLINK].running:
            return
        time.sleep(_CARRIER_PAUSE_S)
    raise TimeoutError(f"{UPLINK} has no carrier")
