"""Who reaches whom, and with which address."""

from __future__ import annotations

import socket
from contextlib import closing

import msgspec

from plugengine.testing.network import view
from tests.drivers.net_bridge.world import HOST_OUTSIDE, NEIGHBOUR, NETWORK, OPTIONS, OTHER, World, port, talk


def test_guests_of_one_network_reach_each_other_with_their_own_addresses(world: World, bridge_netfilter: str) -> None:
    one, two = world.attached(), world.attached()
    with closing(one.listen(80)) as server:
        assert talk(two.connect(one.address, 80), server) == two.address
    with closing(two.listen(80)) as server:
        assert talk(one.connect(two.address, 80), server) == one.address


def test_a_guest_reaches_the_host_at_the_gateway(world: World) -> None:
    guest = world.attached()
    with closing(world.host.listen(80)) as server:
        assert talk(guest.connect(str(NETWORK.gateway), 80), server) == guest.address


def test_the_host_reaches_a_guest(world: World) -> None:
    guest = world.attached()
    with closing(guest.listen(80)) as server:
        assert talk(world.host.connect(guest.address, 80), server) == NETWORK.gateway


def test_a_guest_reaches_its_own_loopback(world: World) -> None:
    guest = world.attached()
    with closing(guest.listen(80, "127.0.0.1")) as server:
        assert talk(guest.connect("127.0.0.1", 80), server) == "127.0.0.1"


def test_the_outside_sees_a_guest_with_the_address_of_the_host(world: World) -> None:
    guest = world.attached()
    with closing(world.neighbour.listen(80)) as server:
        assert talk(guest.connect(NEIGHBOUR, 80), server) == HOST_OUTSIDE


def test_udp_to_the_outside_is_answered(world: World) -> None:
    guest = world.attached()
    with closing(world.neighbour.bind_udp(53)) as server, closing(guest.bind_udp(0)) as client:
        client.sendto(b"question", (NEIGHBOUR, 53))
        question, sender = server.recvfrom(64)
        assert (question, sender[0]) == (b"question", HOST_OUTSIDE)
        server.sendto(b"answer", sender)
        assert client.recv(64) == b"answer"


def test_the_outside_does_not_reach_an_unpublished_port_even_with_a_route(world: World) -> None:
    guest = world.attached(port(8080, 80))
    world.neighbour.run("ip", "route", "add", str(NETWORK.subnet), "via", HOST_OUTSIDE)
    with closing(guest.listen(80)), closing(guest.listen(81)):
        assert not world.neighbour.reaches(guest.address, 80)
        assert not world.neighbour.reaches(guest.address, 81)
        world.host.run("nft", "flush", "chain", "ip", "plugengine", "forward")
        assert world.neighbour.reaches(guest.address, 81), "without the rules it would have been reached"


def test_networks_are_isolated_from_each_other(world: World) -> None:
    one, two = world.attached(), world.attached(network=OTHER)
    with closing(one.listen(80)), closing(two.listen(80)):
        assert not one.reaches(two.address, 80)
        assert not two.reaches(one.address, 80)
        world.host.run("nft", "flush", "chain", "ip", "plugengine", "forward")
        assert one.reaches(two.address, 80), "without the rules it would have been reached"


def test_a_published_port_is_reached_from_another_network(world: World) -> None:
    guest = world.attached(port(8080, 80))
    other = world.attached(network=OTHER)
    with closing(guest.listen(80)) as server:
        assert talk(other.connect(str(OTHER.gateway), 8080), server)


def test_an_internal_network_has_no_way_out_and_no_way_in(world: World) -> None:
    inner = msgspec.structs.replace(OTHER, options={**OPTIONS, "internal": True})
    one, two = world.attached(network=inner), world.attached(network=inner)
    assert one.attachment is not None
    assert one.attachment.gateway is None
    with closing(one.listen(80)) as server, closing(world.neighbour.listen(80)):
        talk(two.connect(one.address, 80), server)
        assert not one.reaches(NEIGHBOUR, 80)
        one.run("ip", "route", "add", "default", "via", str(inner.gateway))
        assert not one.reaches(NEIGHBOUR, 80)


def test_a_guest_on_two_networks_has_two_interfaces(world: World) -> None:
    guest = world.attached()
    far = world.attached(network=OTHER)
    second = world.guest(network=OTHER, container_id=guest.id)
    attachment = second.attach(netns=guest.fd)
    assert [interface.name for interface in attachment.interfaces] == ["eth1"]
    near = world.attached()
    with closing(far.listen(80)) as server:
        assert talk(guest.connect(far.address, 80), server) == second.address
    with closing(near.listen(80)) as server:
        assert talk(guest.connect(near.address, 80), server) == guest.address
    with closing(world.neighbour.listen(80)) as server:
        assert talk(guest.connect(NEIGHBOUR, 80), server) == HOST_OUTSIDE


def test_router_advertisements_are_refused_on_both_sides(world: World) -> None:
    guest = world.attached()
    for place, interface in ((world.host, "pe0"), (guest, "eth0")):
        with place.inside(), open(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra") as stream:
            assert stream.read().strip() == "0"


def test_the_host_is_not_reached_by_ipv6_past_the_rules_for_ipv4(world: World) -> None:
    """What listens on [::] answers neither a guest, nor one that has turned IPv6 on for itself."""
    guest = world.attached()
    with world.host.inside():
        assert "pe0" not in view.ipv6_addresses().values()
    with guest.inside():
        assert set(view.ipv6_addresses().values()) <= {"lo"}
        index = socket.if_nametoindex("eth0")
    guest.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0", "net.ipv6.conf.eth0.accept_dad=0")
    guest.run("ip", "link", "set", "eth0", "down")
    guest.run("ip", "link", "set", "eth0", "up")
    with guest.inside():
        assert "eth0" in view.ipv6_addresses().values()
    with closing(world.host.listen(80, "::")) as server:
        talk(guest.connect(str(NETWORK.gateway), 80), server)
        for address, link in view.ipv6_addresses().items():
            assert link == "lo" or not guest.reaches(f"{address}%{index}", 80), f"{address} of {link}"


def test_a_bridge_that_got_ipv6_back_loses_it_at_the_next_create(world: World) -> None:
    world.attached()
    world.host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    world.host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0")
    assert "pe0" in view.ipv6_addresses().values()
    world.attached()
    assert "pe0" not in view.ipv6_addresses().values()


def test_interfaces_a_guest_makes_later_have_ipv6_as_ever(world: World) -> None:
    guest = world.attached()
    guest.run("ip", "link", "add", "own0", "type", "veth", "peer", "name", "own1")
    guest.run("ip", "-6", "address", "add", "2001:db8::1/64", "dev", "own0", "nodad")
    assert "2001:db8::1/64" in guest.run("ip", "-6", "-oneline", "address")
