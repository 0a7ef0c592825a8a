"""A small world of network namespaces: a host, guests of its networks, and a neighbour outside; real sockets."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from typing import Any

import plugengine_net_bridge as bridge

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import find_all
from plugengine.model import Attachment, Host, HostPath, Network, NetworkRequest, Port
from plugengine.testing.network.net_namespace import IMPATIENCE_S as IMPATIENCE_S
from plugengine.testing.network.net_namespace import PATIENCE_S as PATIENCE_S
from plugengine.testing.network.net_namespace import Place
from plugengine.testing.network.net_namespace import talk as talk
from tests import waiting
from tests.drivers.options import values
from tests.waiting import eventually

HOST_OUTSIDE = "203.0.113.1"  # RFC 5737
NEIGHBOUR = "203.0.113.2"
HOST = Host(root=HostPath("/nowhere"), run_root=HostPath("/nowhere"), kernel=(5, 12))
OPTIONS = values(bridge.pe_network_info())
NETWORK = Network(
    name="default", driver="bridge", subnet="10.88.0.0/16", gateway="10.88.0.1", options=OPTIONS, owner=HOST.root
)
OTHER = Network(
    name="other", driver="bridge", subnet="10.89.0.0/24", gateway="10.89.0.1", options=OPTIONS, owner=HOST.root
)
Namespace = Place
NOTHING = ["lo"]  # the links of a host without networks


def await_carrier(name: str) -> None:
    """Wait until frames pass through a link."""
    with NetlinkSocket(NETLINK_ROUTE) as route:

        def has_carrier() -> bool:
            (answer,) = route.execute(rtnl.get_link(name))
            return rtnl.Link(answer.replies[0][1]).operstate == rtnl.IF_OPER_UP

        eventually(has_carrier)


class Guest(Namespace):
    """A container as far as a network driver is concerned."""

    def __init__(self, world: World, network: Network, number: int, container_id: str) -> None:
        super().__init__()
        self.world = world
        self.network = network
        self.id = container_id
        prefix, _, length = str(network.subnet).partition("/")
        self.address = prefix.removesuffix(".0") + f".{number}"
        self.cidr = f"{self.address}/{length}"
        self.attachment: Attachment | None = None

    def request(self, *ports: Port, **changes: Any) -> NetworkRequest:
        """Return the request to attach it."""
        values = {
            "container_id": self.id,
            "network": self.network,
            "network_record": {},
            "netns": self.fd,
            "address": self.cidr,
            "ports": ports,
        }
        return NetworkRequest(**{**values, **changes})

    def attach(self, *ports: Port, **changes: Any) -> Attachment:
        """Create the network and attach it, as the engine does."""
        record = bridge.pe_network_create(self.network)
        self.attachment = bridge.pe_network_attach(self.request(*ports, network_record=record, **changes))
        return self.attachment

    def detach(self) -> None:
        """Detach it, as the engine does."""
        bridge.pe_network_detach(self.request(netns=-1), self.attachment)
        self.attachment = None


class World:
    """The host's namespace, in which the test itself runs, a machine outside, and everything made by it."""

    def __init__(self) -> None:
        self.host = Namespace()
        self.undo = ExitStack()
        self.guests: list[Guest] = []
        self._outside: dict[str, Namespace] = {}
        self.neighbour = self.connected("up0", HOST_OUTSIDE, NEIGHBOUR)  # knows nothing of the networks behind the host

    def guest(self, *, network: Network = NETWORK, container_id: str = "") -> Guest:
        """Return a new guest with an address of its own; not attached yet."""
        number = len(self.guests) + 2
        made = Guest(self, network, number, container_id or f"{number:064x}")
        self.guests.append(made)
        return made

    def attached(self, *ports: Port, network: Network = NETWORK) -> Guest:
        """Return a new guest, attached."""
        made = self.guest(network=network)
        made.attach(*ports)
        return made

    def connected(self, link: str, host_address: str, address: str) -> Namespace:
        """Return the machine at the other end of a link of the host's, made when it is first asked for."""
        if link not in self._outside:
            self._outside[link] = Namespace()
            self._connect(self._outside[link], link, host_address, address)
        return self._outside[link]

    def _connect(self, outside: Namespace, link: str, host_address: str, address: str) -> None:
        with self.host.inside(), NetlinkSocket(NETLINK_ROUTE) as route:
            mac = bytes.fromhex("020000000002")
            route.execute(rtnl.new_veth(link, master=0, mtu=1500, peer="eth0", peer_mac=mac, netns=outside.fd))
        for place, name, own in ((self.host, link, host_address), (outside, "eth0", address)):
            with place.inside(), closing(InterfaceSocket()) as interfaces:
                interfaces.up("lo")
                interfaces.set_address(name, socket.inet_aton(own), 24)
                interfaces.up(name)
        for place, name in ((self.host, link), (outside, "eth0")):
            with place.inside():
                await_carrier(name)

    def links(self) -> list[str]:
        """Return the names of the host's links, but for those to machines outside."""
        with NetlinkSocket(NETLINK_ROUTE) as route:
            return sorted(link.name for link in find_all(route) if link.name not in self._outside)

    def ruleset(self) -> str:
        """Return the host's packet filter as nft(8) shows it."""
        return self.host.run("nft", "list", "ruleset")

    def close(self) -> None:
        """Let everything die."""
        self.undo.close()
        for guest in self.guests:
            guest.close()
        for outside in self._outside.values():
            outside.close()
        self.host.close()


def port(host_port: int, guest_port: int, *, on: str = "", protocol: str = "tcp") -> Port:
    """Return a port to publish."""
    return Port(host_ip=on, host_port=host_port, guest_port=guest_port, protocol=protocol)


def settled(world: World, links: list[str]) -> bool:
    """Wait for the kernel to remove the links of namespaces that ended."""
    return waiting.settled(world.links, lambda now: now == links) == links


def link_of(guest: Guest) -> str:
    assert guest.attachment
    return str(guest.attachment.interfaces[0].host_name)
