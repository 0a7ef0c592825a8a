"""The machine a network driver is tested on: a host's network namespace with one uplink, and the world at its end.

    host (the case's own namespace)                 outside (another namespace)
      lo                                              lo
      kit0  203.0.113.1/24  ------------------------  eth0  203.0.113.2/24, 198.51.100.1/32
      default via 203.0.113.2                               and the gateway's address of every network of the case

A driver that needs a parent interface is given `--option parent=kit0`: the world answers at the gateway's address like
the router of the segment. It knows no way back to a container that is only routed: there an address must be translated.
Nothing of it reaches the machine's own interfaces. Neither host nor world forwards unless a case says so. Cases that
need a second link of the host make a branch:

      kit1  192.0.2.1/24  --------------------------  eth0  192.0.2.2/24, in one more namespace
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
from plugengine.testing.network.net_namespace import Place

UPLINK: Final = "kit0"  # for drivers with an option like "parent"
UPLINK_MTU: Final = 1500
HOST_ADDRESS: Final = "203.0.113.1"  # RFC 5737, documentation
WORLD_ADDRESS: Final = "203.0.113.2"  # the host's neighbour and default gateway
FAR_ADDRESS: Final = "198.51.100.1"  # beyond the neighbour
SUBNET: Final = "203.0.113.0/24"
BRANCH_ADDRESS: Final = "192.0.2.2"  # at the host's second link
_LENGTH: Final = 24
_SECOND_LINK: Final = "kit1"
_SECOND_ADDRESS: Final = "192.0.2.1"
_FAR_END: Final = "eth0"
_FAR_END_MAC: Final = bytes.fromhex("020000000002")

_CARRIER_TRIES: Final = 400
_CARRIER_PAUSE_S: Final = 0.005


class World:
    """The namespace at the other end of the uplink."""

    def __init__(self) -> None:
        self.place: Place = Place()
        self._aliases = 0
        _connect(UPLINK, HOST_ADDRESS, self.place, WORLD_ADDRESS)
        self.add_address(FAR_ADDRESS, 32)
        _add_default_route(WORLD_ADDRESS)

    def add_address(self, address: str, prefix_length: int) -> None:
        """Let the world answer at one more address."""
        self._aliases += 1
        with self.place.inside(), closing(InterfaceSocket()) as interfaces:
            interfaces.set_address(f"{_FAR_END}:{self._aliases}", socket.inet_aton(address), prefix_length)

    def close(self) -> None:
        """Let it die, and the uplink with it, at once: the kernel would take some moments."""
        with NetlinkSocket(NETLINK_ROUTE) as route:
            rtnetlink.delete(route, UPLINK)
        self.place.close()


class Branch:
    """A namespace at a second link of the host; it and the world take the host for a router."""

    def __init__(self, world: World) -> None:
        self.place: Place = Place()
        _connect(_SECOND_LINK, _SECOND_ADDRESS, self.place, BRANCH_ADDRESS)
        for place, gateway in ((self.place, _SECOND_ADDRESS), (world.place, HOST_ADDRESS)):
            with place.inside():
                _add_default_route(gateway)

    def close(self) -> None:
        """Let it die, and the second link with it."""
        with NetlinkSocket(NETLINK_ROUTE) as route:
            rtnetlink.delete(route, _SECOND_LINK)
        self.place.close()


def _connect(link: str, address: str, outside: Place, far_address: str) -> None:
    """Make a link between this namespace and another, and wait until frames pass: the first ones would be lost."""
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.execute(
            rtnetlink.new_veth(link, master=0, mtu=UPLINK_MTU, peer=_FAR_END, peer_mac=_FAR_END_MAC, netns=outside.fd)
        )
    _raise(link, address)
    with outside.inside():
        _raise(_FAR_END, far_address)
    for _ in range(_CARRIER_TRIES):
        if view.links()[link].running:
            return
        time.sleep(_CARRIER_PAUSE_S)
    raise TimeoutError(f"{link} has no carrier")


def _raise(link: str, address: str) -> None:
    with closing(InterfaceSocket()) as interfaces:
        interfaces.up("lo")
        interfaces.set_address(link, socket.inet_aton(address), _LENGTH)
        interfaces.up(link)


def _add_default_route(gateway: str) -> None:
    with closing(InterfaceSocket()) as interfaces:
        interfaces.add_default_route(socket.inet_aton(gateway))
