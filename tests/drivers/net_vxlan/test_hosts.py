"""Three hosts on one wire: those that name each other share a network, another does not. Needs root."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Final

import msgspec
import plugengine_net_vxlan as driver
import pytest

from plugengine.errors import ConflictError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.model import Attachment, Network, NetworkRequest
from plugengine.testing.network.net_namespace import Place, question, talk
from tests.drivers.options import values

PORT: Final = 8000
WIRE: Final = "10.0.0"
INSIDE: Final = "10.9.0"
ETHERNET: Final = 1500
HEADERS: Final = 28  # of IPv4 and UDP
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # include/uapi/linux/in.h: never cut a datagram


class Machine(Place):
    """A host: a network namespace with an address on the wire."""

    def __init__(self, number: int, wire: Place, mtu: int) -> None:
        super().__init__()
        self.address = f"{WIRE}.{number}"
        port = f"port{number}"
        with wire.inside(), NetlinkSocket(NETLINK_ROUTE) as netlink:
            bridge = rtnl.find(netlink, "wire")
            assert bridge is not None
            mac = bytes((2, 0, 0, 0, 0, number))
            netlink.execute(rtnl.new_veth(port, master=bridge.index, mtu=mtu, peer="up0", peer_mac=mac, netns=self.fd))
        with self.inside(), closing(InterfaceSocket()) as interfaces:
            interfaces.up("lo")
            interfaces.set_address("up0", socket.inet_aton(self.address), 24)
            interfaces.up("up0")


class World:
    """Hosts on a wire, and what runs on them."""

    def __init__(self, undo: ExitStack, mtu: int = ETHERNET) -> None:
        self._undo = undo
        self._mtu = mtu
        self.wire = Place()
        undo.callback(self.wire.close)
        with self.wire.inside(), NetlinkSocket(NETLINK_ROUTE) as netlink:
            netlink.execute(rtnl.new_bridge("wire", mac=bytes((2, 0, 0, 0, 1, 0)), mtu=mtu), rtnl.link_up("wire"))

    def host(self, number: int) -> Machine:
        made = Machine(number, self.wire, self._mtu)
        self._undo.callback(made.close)
        return made

    def guest(self, host: Machine, number: int, network: Network) -> tuple[Place, Attachment]:
        """Return a container on a host, connected."""
        place = Place()
        self._undo.callback(place.close)
        with host.inside():
            record = driver.pe_network_create(network)
            request = NetworkRequest(
                container_id=f"{number:064x}",
                network=network,
                network_record=record,
                netns=place.fd,
                address=f"{INSIDE}.{number}/24",
            )
            return place, driver.pe_network_attach(request)


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as undo:
        yield World(undo)


def network(*peers: Machine, **options: str) -> Network:
    """Return the network as a host has it that names these others."""
    named = ",".join(peer.address for peer in peers)
    wanted = values(driver.pe_network_info(), {"vni": "42", "peers": named, **options})
    return Network(name="team", driver="vxlan", subnet=f"{INSIDE}.0/24", gateway=f"{INSIDE}.254", options=wanted)


def test_containers_of_two_hosts_reach_each_other(world: World) -> None:
    here, there = world.host(1), world.host(2)
    one, _ = world.guest(here, 1, network(there))
    two, _ = world.guest(there, 2, network(here))
    with closing(two.listen(PORT)) as server:
        assert talk(one.connect(f"{INSIDE}.2", PORT), server) == f"{INSIDE}.1"
    with closing(one.listen(PORT)) as server:
        assert talk(two.connect(f"{INSIDE}.1", PORT), server) == f"{INSIDE}.2"


def test_so_do_those_of_three_hosts_and_those_of_one(world: World) -> None:
    hosts = [world.host(number) for number in (1, 2, 3)]
    guests = [
        world.guest(host, number, network(*(other for other in hosts if other is not host)))[0]
        for number, host in enumerate((*hosts, hosts[0]), 1)
    ]
    with closing(guests[2].bind_udp(PORT)) as server:
        for number in (1, 2, 4):
            with closing(guests[number - 1].bind_udp(0)) as client:
                assert question(client, server, f"{INSIDE}.3", PORT) == f"{INSIDE}.{number}"
    with closing(guests[3].listen(PORT)) as server:
        assert talk(guests[0].connect(f"{INSIDE}.4", PORT), server) == f"{INSIDE}.1"


def test_a_host_that_is_no_peer_reaches_nobody_though_it_names_the_others(world: World) -> None:
    here, there, stranger = world.host(1), world.host(2), world.host(3)
    one, _ = world.guest(here, 1, network(there))
    two, _ = world.guest(there, 2, network(here))
    three, _ = world.guest(stranger, 3, network(here, there))
    with closing(one.listen(PORT)) as server:
        assert not three.reaches(f"{INSIDE}.1", PORT)
        assert talk(two.connect(f"{INSIDE}.1", PORT), server) == f"{INSIDE}.2"
    with closing(three.listen(PORT)):
        assert not one.reaches(f"{INSIDE}.3", PORT)


def test_networks_of_different_numbers_are_apart(world: World) -> None:
    here, there = world.host(1), world.host(2)
    one, _ = world.guest(here, 1, network(there))
    two, _ = world.guest(there, 2, network(here, vni="43"))
    with closing(two.listen(PORT)):
        assert not one.reaches(f"{INSIDE}.2", PORT)


@pytest.mark.parametrize("wire", [ETHERNET, 9000])
def test_the_largest_packet_is_what_the_wire_takes_less_50_and_passes_whole(wire: int) -> None:
    with ExitStack() as undo:
        world = World(undo, wire)
        here, there = world.host(1), world.host(2)
        one, attachment = world.guest(here, 1, network(there))
        two, _ = world.guest(there, 2, network(here))
        assert attachment.interfaces[0].mtu == wire - 50
        with closing(two.bind_udp(PORT)) as server, closing(one.bind_udp(0)) as client:
            question(client, server, f"{INSIDE}.2", PORT)
            client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            whole = bytes(wire - 50 - HEADERS)
            client.sendto(whole, (f"{INSIDE}.2", PORT))
            while (heard := server.recv(wire)) == b"question":  # asked again, and late
                pass
            assert heard == whole
            with pytest.raises(OSError, match="Message too long"):
                client.sendto(whole + b"+", (f"{INSIDE}.2", PORT))


def test_a_number_that_is_in_use_is_a_conflict_and_names_it(world: World) -> None:
    host = world.host(1)
    with host.inside():
        driver.pe_network_create(network())
        other = msgspec.structs.replace(network(), name="other", subnet="10.8.0.0/24", gateway="10.8.0.254")
        with pytest.raises(ConflictError, match="number 42 at port 4789"):
            driver.pe_network_create(other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vni": "0"}, "vni=0: not between 1 and 16777215"),
        ({"vni": "16777216"}, "vni=16777216"),
        ({"vni": "x"}, "vni=x"),
        ({"peers": "10.0.0.2,somewhere"}, "peer somewhere: not an IPv4 address"),
        ({"port": "70000"}, "port=70000"),
        ({"mtu": "12"}, "mtu=12"),
        ({"vin": "4"}, "no option vin"),
    ],
)
def test_an_option_that_is_not_understood_is_refused(world: World, options: dict[str, str], said: str) -> None:
    with world.host(1).inside(), pytest.raises(UsageError, match=said):
        driver.pe_network_create(network(**options))
