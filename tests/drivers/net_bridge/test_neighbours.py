"""Living with what else the host has: another firewall, and connections older than our rules."""

from __future__ import annotations

from contextlib import closing

import plugengine_net_bridge as bridge
import pytest

from tests.conftest import need_tool
from tests.drivers.net_bridge.world import (
    HOST,
    HOST_OUTSIDE,
    IMPATIENCE_S,
    NEIGHBOUR,
    NETWORK,
    OTHER,
    World,
    port,
    talk,
)


@pytest.fixture
def closed(world: World) -> World:
    """A host whose firewall forwards nothing, as Docker and ufw leave it."""
    need_tool("iptables-nft")
    world.host.run("iptables-nft", "-P", "FORWARD", "DROP")
    world.host.run("iptables-nft", "-A", "FORWARD", "-p", "icmp", "-j", "DROP")
    return world


def forward_rules(world: World) -> list[str]:
    return world.host.run("iptables-nft", "-S", "FORWARD").splitlines()


def test_guests_reach_out_and_are_reached_through_a_closed_firewall(closed: World) -> None:
    guest = closed.attached(port(8080, 80))
    with closing(closed.neighbour.listen(80)) as server:
        assert talk(guest.connect(NEIGHBOUR, 80), server) == HOST_OUTSIDE
    with closing(guest.listen(80)) as server:
        talk(closed.neighbour.connect(HOST_OUTSIDE, 8080), server)


def test_what_is_unpublished_stays_unreached_behind_a_closed_firewall(closed: World) -> None:
    guest, other = closed.attached(port(8080, 80)), closed.attached(network=OTHER)
    closed.neighbour.run("ip", "route", "add", str(NETWORK.subnet), "via", HOST_OUTSIDE)
    with closing(guest.listen(81)):
        assert not closed.neighbour.reaches(guest.address, 81)
        assert not other.reaches(guest.address, 81)


def test_our_rules_come_last_once_and_go_with_the_network(closed: World) -> None:
    before = forward_rules(closed)
    for _ in range(3):
        bridge.pe_network_create(NETWORK)
    rules = forward_rules(closed)
    assert rules[: len(before)] == before
    assert len(rules) == len(before) + 2
    assert all("pe0" in rule and "ACCEPT" in rule for rule in rules[len(before) :])
    bridge.pe_network_remove(NETWORK, {})
    assert forward_rules(closed) == before


def test_gc_takes_our_rules_out_of_a_closed_firewall(closed: World) -> None:
    before = forward_rules(closed)
    bridge.pe_network_create(OTHER)
    bridge.pe_network_gc(HOST, (), frozenset())
    assert forward_rules(closed) == before


def test_an_open_firewall_is_not_touched(world: World) -> None:
    need_tool("iptables-nft")
    world.host.run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    bridge.pe_network_create(NETWORK)
    assert forward_rules(world) == ["-P FORWARD ACCEPT"]


def test_a_udp_client_that_asked_before_the_port_was_published_is_served(world: World) -> None:
    world.attached()  # from now on the host tracks connections
    with closing(world.neighbour.bind_udp(4000)) as sender:
        with closing(world.host.bind_udp(7001)) as early:
            sender.sendto(b"early", (HOST_OUTSIDE, 7001))
            assert early.recv(64) == b"early"
        guest = world.attached(port(7001, 53, protocol="udp"))
        with closing(guest.bind_udp(53)) as server:
            sender.sendto(b"again", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"again"


def test_a_udp_client_is_served_by_the_next_guest_with_another_address(world: World) -> None:
    client = world.neighbour
    first = world.attached(port(7001, 53, protocol="udp"))
    with closing(client.bind_udp(4000)) as sender:
        with closing(first.bind_udp(53)) as server:
            sender.sendto(b"one", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"one"
        first.detach()
        second = world.attached(port(7001, 53, protocol="udp"))
        with closing(second.bind_udp(53)) as server:
            sender.sendto(b"two", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"two"


def test_queries_that_only_pass_through_the_host_are_not_disturbed(world: World) -> None:
    guest = world.attached()
    with closing(world.neighbour.bind_udp(53)) as server, closing(guest.bind_udp(0)) as client:
        client.sendto(b"question", (NEIGHBOUR, 53))
        _, asker = server.recvfrom(64)
        world.attached(port(53, 53, protocol="udp"))
        server.sendto(b"answer", asker)
        assert client.recv(64) == b"answer"


def test_a_udp_client_is_served_by_the_host_once_the_port_is_withdrawn(world: World) -> None:
    guest = world.attached(port(7001, 53, protocol="udp"))
    assert guest.attachment
    with closing(world.neighbour.bind_udp(4000)) as sender:
        with closing(guest.bind_udp(53)) as server:
            sender.sendto(b"one", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"one"
        bridge.pe_network_ports(guest.request(), guest.attachment)
        with closing(world.host.bind_udp(7001)) as server:
            sender.sendto(b"two", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"two"


def test_a_udp_client_of_a_guest_that_is_gone_does_not_reach_the_next_owner_of_its_address(world: World) -> None:
    first = world.attached(port(7001, 53, protocol="udp"))
    with closing(world.neighbour.bind_udp(4000)) as sender:
        with closing(first.bind_udp(53)) as server:
            sender.sendto(b"one", (HOST_OUTSIDE, 7001))
            assert server.recv(64) == b"one"
        first.detach()
        second = world.guest()
        second.attach(address=first.cidr)
        with closing(second.bind_udp(53)) as server:
            server.settimeout(IMPATIENCE_S)
            sender.sendto(b"two", (HOST_OUTSIDE, 7001))
            with pytest.raises(TimeoutError):
                server.recv(64)
