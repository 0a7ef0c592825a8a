"""Macvlan in a small world: a host with a link to a neighbour, and guests on that link; real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import plugengine_net_macvlan as macvlan
import pytest

from plugengine.errors import DriverError, NotSupportedError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.links import link_up
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.model import Attachment, Network, NetworkRequest, NetworkStats, Port
from tests.conftest import need_root
from tests.drivers.net_bridge.world import HOST, IMPATIENCE_S, Namespace, await_carrier, talk
from tests.drivers.options import values
from tests.waiting import PATIENCE_S

NEIGHBOUR, HOSTS_OWN = "203.0.113.1", "203.0.113.254"  # RFC 5737
PARENT = "up0"


class Guest(Namespace):
    """A container as far as the driver is concerned."""

    def __init__(self, network: Network, number: int) -> None:
        super().__init__()
        self.network = network
        self.id = f"{number:064x}"
        self.address = f"203.0.113.{number}"
        self.attachment: Attachment | None = None

    def request(self, **changes: Any) -> NetworkRequest:
        values = {
            "container_id": self.id,
            "network": self.network,
            "network_record": {},
            "netns": self.fd,
            "address": f"{self.address}/24",
        }
        return NetworkRequest(**{**values, **changes})

    def attach(self, **changes: Any) -> Attachment:
        record = macvlan.pe_network_create(self.network)
        self.attachment = macvlan.pe_network_attach(self.request(network_record=record, **changes))
        return self.attachment

    def detach(self) -> None:
        macvlan.pe_network_detach(self.request(netns=-1), self.attachment)

    def links(self) -> list[str]:
        with self.inside():
            return sorted(name for _, name in socket.if_nameindex())


class World:
    """The host, in which the test itself runs; its link up0 ends in a neighbour."""

    def __init__(self) -> None:
        self.host = Namespace()
        self.neighbour = Namespace()
        self.guests: list[Guest] = []
        with self.host.inside(), NetlinkSocket(NETLINK_ROUTE) as route:
            mac = bytes.fromhex("020000000002")
            route.execute(rtnl.new_veth(PARENT, master=0, mtu=1500, peer="eth0", peer_mac=mac, netns=self.neighbour.fd))
        for place, name, address in ((self.host, PARENT, HOSTS_OWN), (self.neighbour, "eth0", NEIGHBOUR)):
            with place.inside(), closing(InterfaceSocket()) as interfaces:
                interfaces.up("lo")
                interfaces.set_address(name, socket.inet_aton(address), 24)
                interfaces.up(name)
        for place, name in ((self.host, PARENT), (self.neighbour, "eth0")):
            with place.inside():
                await_carrier(name)

    def guest(self, **options: str) -> Guest:
        """Return a new guest; not attached yet."""
        made = Guest(network(**options), len(self.guests) + 10)
        self.guests.append(made)
        return made

    def attached(self, **options: str) -> Guest:
        made = self.guest(**options)
        made.attach()
        return made

    def links(self) -> list[str]:
        return sorted(name for _, name in socket.if_nameindex())

    def close(self) -> None:
        for each in (*self.guests, self.neighbour, self.host):
            each.close()


def network(name: str = "lan", **options: str) -> Network:
    return Network(
        name=name,
        driver="macvlan",
        subnet="203.0.113.0/24",
        gateway=NEIGHBOUR,
        options=values(macvlan.pe_network_info(), {"parent": PARENT, **options}),
    )


@pytest.fixture
def world() -> Iterator[World]:
    """A host of its own; descriptors and the host's links are counted before and after."""
    need_root()
    before = set(os.listdir("/proc/self/fd"))
    made = World()
    with closing(made), made.host.inside():
        links = made.links()
        yield made
        assert made.links() == links, "the host's namespace is as it was"
    assert set(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def reach(client: Namespace, server: Namespace, address: str) -> bool:
    with closing(server.listen(80)) as listening:
        try:
            connection = client.connect(address, 80, timeout=PATIENCE_S)
        except OSError:
            return False
        talk(connection, listening)
        return True


def cannot_reach(client: Namespace, server: Namespace, address: str) -> bool:
    with closing(server.listen(80)):
        try:
            client.connect(address, 80, timeout=IMPATIENCE_S * 2).close()
        except OSError:
            return True
        return False


def test_two_containers_and_the_neighbour_reach_each_other_in_bridge_mode(world: World) -> None:
    one, two = world.attached(), world.attached()
    assert reach(one, two, two.address)
    assert reach(two, world.neighbour, NEIGHBOUR)
    assert reach(world.neighbour, one, one.address)


def test_two_containers_reach_only_the_neighbour_in_private_mode(world: World) -> None:
    one, two = world.attached(mode="private"), world.attached(mode="private")
    assert cannot_reach(one, two, two.address)
    assert reach(one, world.neighbour, NEIGHBOUR)


def test_vepa_leaves_it_to_the_switch_outside(world: World) -> None:
    one, two = world.attached(mode="vepa"), world.attached(mode="vepa")
    assert cannot_reach(one, two, two.address), "the neighbour reflects nothing"
    assert reach(one, world.neighbour, NEIGHBOUR)


def test_passthru_takes_one_container(world: World) -> None:
    assert reach(world.attached(mode="passthru"), world.neighbour, NEIGHBOUR)
    second = world.guest(mode="passthru")
    with pytest.raises(DriverError, match=r"connect container .* to network lan") as caught:
        second.attach()
    assert "alone" in str(caught.value.hint)
    assert second.links() == ["lo"]


def test_the_hosts_own_address_on_the_parent_is_not_reached(world: World) -> None:
    guest = world.attached()
    assert cannot_reach(guest, world.host, HOSTS_OWN), "macvlan never hands a frame to its parent"
    assert cannot_reach(world.host, guest, guest.address)


def test_the_interface_is_as_asked_and_the_default_route_leads_to_the_gateway(world: World) -> None:
    guest = world.guest()
    attachment = guest.attach(mac="02:00:00:00:00:77")
    assert attachment.gateway == NEIGHBOUR
    (interface,) = attachment.interfaces
    assert (interface.name, interface.mac, interface.mtu) == ("eth0", "02:00:00:00:00:77", 1500)
    shown = guest.run("ip", "-d", "address", "show", "eth0")
    assert "02:00:00:00:00:77" in shown
    assert "203.0.113.10/24" in shown
    assert "macvlan mode bridge" in shown
    assert f"default via {NEIGHBOUR}" in guest.run("ip", "route")


def test_the_mtu_is_the_parents_the_networks_or_the_containers(world: World) -> None:
    smaller = {"mtu": "1400"}
    cases: list[tuple[dict[str, str], dict[str, int], int]] = [
        ({}, {}, 1500),
        (smaller, {}, 1400),
        (smaller, {"mtu": 1300}, 1300),
    ]
    for options, own, expected in cases:
        guest = world.guest(**options)
        attachment = guest.attach(options=own)
        assert attachment.interfaces[0].mtu == expected
        assert f"mtu {expected}" in guest.run("ip", "link", "show", "eth0")


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        pytest.param({"parent": ""}, "needs a parent", "links here: up0", id="no parent"),
        pytest.param({"parent": "up00"}, "no link up00", "did you mean up0?", id="near miss"),
        pytest.param({"parent": "up00.50"}, "no link up00.50", "did you mean up0.50?", id="near miss of a vlan"),
        pytest.param({"parent": "zzz"}, "no link zzz", "links here: up0", id="unknown"),
        pytest.param({"parent": "a/b"}, "no name for a link", None, id="no name"),
        pytest.param({"mode": "brigde"}, "option mode=brigde: not bridge or private or vepa", None, id="mode"),
        pytest.param({"mtu": "1501"}, "more than 1500", None, id="mtu above the parent's"),
        pytest.param({"mtu": "x"}, "option mtu=x: not a whole number", None, id="mtu"),
    ],
)
def test_options_that_cannot_be_are_refused(
    world: World, options: dict[str, str], words: str, hint: str | None
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        macvlan.pe_network_create(network(**options))
    if hint:
        assert hint in str(caught.value.hint)


def test_a_container_cannot_choose_what_is_the_networks(world: World) -> None:
    guest = world.guest()
    with pytest.raises(UsageError, match="option mode is for the whole network"):
        guest.attach(options={**guest.network.options, "mode": "private"})
    assert guest.links() == ["lo"]


def test_ports_are_refused_with_a_sentence(world: World) -> None:
    guest = world.guest()
    with pytest.raises(NotSupportedError, match="macvlan has no ports of the host"):
        guest.attach(ports=(Port(host_ip="", host_port=80, guest_port=80),))


def test_attach_and_detach_twice_are_once(world: World) -> None:
    guest, other = world.attached(), world.attached()
    first = guest.attachment
    assert guest.attach() == first
    assert guest.links() == ["eth0", "lo"]
    guest.detach()
    assert guest.links() == ["lo"]
    guest.detach()
    macvlan.pe_network_detach(guest.request(netns=-1), None)
    guest.attach()
    assert reach(guest, other, other.address)


def test_detach_is_fine_when_the_namespace_is_gone(world: World) -> None:
    guest, other = world.attached(), world.attached()
    guest.close()
    guest.detach()
    again = world.attached()
    assert reach(again, other, other.address)


def test_detach_does_not_touch_anothers_interface(world: World) -> None:
    guest = world.attached()
    guest.detach()
    with guest.inside(), NetlinkSocket(NETLINK_ROUTE) as inside:
        mac = bytes.fromhex("020000000099")
        inside.execute(rtnl.new_veth("x", master=0, mtu=1500, peer="eth0", peer_mac=mac, netns=guest.fd))
    guest.detach()
    assert guest.links() == ["eth0", "lo", "x"]


def test_a_failed_attach_leaves_nothing(world: World) -> None:
    guest = world.guest()
    with pytest.raises(UsageError):
        guest.attach(mac="01:00:5e:00:00:01")
    with pytest.raises(UsageError):
        guest.attach(address=None)
    link_up("lo", guest.fd)
    with pytest.raises(DriverError, match="default via"):
        guest.attach(network=msgspec.structs.replace(guest.network, gateway="198.51.100.1"))
    assert guest.links() == ["lo"]


def test_the_second_network_of_a_container_becomes_eth1(world: World) -> None:
    guest = world.attached()
    assert guest.attach(address="203.0.113.99/24").interfaces[0].name == "eth1"


def test_a_bridge_can_be_the_parent(world: World) -> None:
    with NetlinkSocket(NETLINK_ROUTE) as route:
        route.execute(rtnl.new_bridge("br0", mac=bytes.fromhex("020000000005"), mtu=1500), rtnl.link_up("br0"))
    try:
        with NetlinkSocket(NETLINK_ROUTE) as route:
            bridge = rtnl.find(route, "br0")
            assert bridge
            route.execute(rtnl.set_master(PARENT, bridge.index))
        await_carrier("br0")
        one, two = world.attached(parent="br0"), world.attached(parent="br0")
        assert reach(one, two, two.address)
        with pytest.raises(DriverError, match="busy") as caught:
            world.attached()
        assert "port of a bridge" in str(caught.value.hint)
    finally:
        with NetlinkSocket(NETLINK_ROUTE) as route:
            rtnl.delete(route, "br0")


def test_counters_are_the_containers(world: World) -> None:
    guest = world.attached()
    assert reach(guest, world.neighbour, NEIGHBOUR)
    assert guest.attachment
    counted = macvlan.pe_network_stats(guest.request(), guest.attachment)
    assert counted.rx_packets > 3
    assert counted.tx_bytes > 100
    assert counted != NetworkStats()


def test_without_a_vlan_driver_the_kernel_says_so_else_the_vlan_comes_and_goes(world: World) -> None:
    vlan = network(parent="up0.50")
    probe = subprocess.run(["ip", "link", "add", "link", PARENT, "name", "v", "type", "vlan", "id", "7"], check=False)
    if probe.returncode != 0:
        assert "PE_VLANS" not in os.environ
        with pytest.raises(DriverError) as caught:
            macvlan.pe_network_create(vlan)
        assert "8021q" in str(caught.value.hint)
        return
    subprocess.run(["ip", "link", "delete", "v"], check=True)
    record = macvlan.pe_network_create(vlan)
    assert record == {"parent": "up0.50", "made": True}
    assert macvlan.pe_network_create(vlan) == record
    one, two = world.attached(parent="up0.50"), world.attached(parent="up0.50")
    assert reach(one, two, two.address)
    one.close()
    two.close()
    macvlan.pe_network_remove(network(name="other", parent="up0.50"), {})
    assert "up0.50" in world.links(), "another network's VLAN stays"
    macvlan.pe_network_remove(vlan, record)
    macvlan.pe_network_remove(vlan, record)
    assert "up0.50" not in world.links()


def test_a_link_that_was_there_is_not_removed_with_the_network(world: World) -> None:
    record = macvlan.pe_network_create(network())
    assert record == {"parent": PARENT, "made": False}
    macvlan.pe_network_remove(network(), record)
    assert PARENT in world.links()


def test_the_probe_finds_macvlan(world: World) -> None:
    assert list(macvlan.pe_network_probe(HOST)) == []
