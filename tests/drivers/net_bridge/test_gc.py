"""Tell what is left over from what is in use, also by engines this one does not know."""

from __future__ import annotations

from contextlib import closing

import msgspec
import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import ConflictError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.model import HostPath
from tests.drivers.net_bridge.world import (
    HOST,
    NETWORK,
    NOTHING,
    OPTIONS,
    OTHER,
    World,
    link_of,
    port,
    settled,
    talk,
)

ELSEWHERE = msgspec.structs.replace(HOST, root=HostPath("/elsewhere"))


def test_gc_removes_what_no_container_owns_and_nothing_else(world: World) -> None:
    kept, lost = world.attached(port(8080, 80)), world.attached(port(8081, 80))
    far = world.attached(port(8082, 80, on="127.0.0.1"), network=OTHER)
    far.close()
    assert settled(world, sorted(["lo", "pe0", "pe-other", link_of(kept), link_of(lost)]))
    removed = list(bridge.pe_network_gc(HOST, (NETWORK,), frozenset((kept.id, far.id))))
    assert world.links() == sorted(["lo", "pe0", link_of(kept)])
    rules = world.ruleset()
    assert kept.id in rules
    assert lost.id not in rules
    assert "10.89" not in rules
    assert sum(lost.id in line for line in removed) == 2
    assert any("pe-other" in line for line in removed)
    with closing(kept.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)
    assert list(bridge.pe_network_gc(HOST, (NETWORK,), frozenset((kept.id,)))) == []


def test_gc_of_everything_leaves_nothing(world: World) -> None:
    inner = msgspec.structs.replace(OTHER, options={**OPTIONS, "internal": True})
    for guest in (world.attached(port(8080, 80)), world.attached(network=inner)):
        guest.close()
    assert settled(world, ["lo", "pe-other", "pe0"])
    bridge.pe_network_gc(HOST, (), frozenset())
    assert world.links() == NOTHING
    assert world.ruleset() == ""


def test_gc_leaves_links_that_other_network_drivers_made(world: World) -> None:
    # macvlan marks the VLAN it made for a network in the same words; every container on it goes with it.
    with NetlinkSocket(NETLINK_ROUTE) as route:
        mac = bytes.fromhex("020000000002")
        route.execute(
            rtnl.new_veth("vlan0.50", master=0, mtu=1500, peer="eth0", peer_mac=mac, netns=world.host.fd),
            rtnl.set_alias("vlan0.50", "plugengine network lan 203.0.113.0/24"),
        )
    links = world.links()
    assert "vlan0.50" in links
    assert list(bridge.pe_network_gc(HOST, (), frozenset())) == []
    assert world.links() == links


def test_engines_with_other_roots_do_not_touch_each_other(world: World) -> None:
    theirs = msgspec.structs.replace(NETWORK, subnet="10.89.0.0/16", gateway="10.89.0.1", owner=ELSEWHERE.root)
    one, two = world.attached(port(8080, 80)), world.attached(port(8081, 80), network=theirs)
    assert set(world.links()) == {"lo", "pe0", "pe-10.89.0.0", link_of(one), link_of(two)}
    links, rules = world.links(), world.ruleset()
    assert list(bridge.pe_network_gc(HOST, (NETWORK,), frozenset((one.id,)))) == []
    assert list(bridge.pe_network_gc(ELSEWHERE, (theirs,), frozenset((two.id,)))) == []
    assert (world.links(), world.ruleset()) == (links, rules)
    with pytest.raises(ConflictError, match=two.id):
        world.attached(port(8081, 80))
    for guest, number in ((one, 8080), (two, 8081)):
        with closing(guest.listen(80)) as server:
            talk(world.host.connect("127.0.0.1", number), server)
            talk(two.connect("10.89.0.1", number), server)


def test_gc_leaves_what_other_engines_do_not_use_just_now(world: World) -> None:
    theirs = msgspec.structs.replace(OTHER, owner=ELSEWHERE.root)
    guest = world.attached(port(8081, 80), network=theirs)
    guest.close()
    assert settled(world, ["lo", "pe-other"])
    rules = world.ruleset()
    assert list(bridge.pe_network_gc(HOST, (), frozenset())) == []
    assert (world.links(), world.ruleset()) == (["lo", "pe-other"], rules)
    world.host.run("ip", "link", "delete", "pe-other")
    assert list(bridge.pe_network_gc(HOST, (), frozenset())) == []
    assert world.ruleset() == rules
    assert list(bridge.pe_network_gc(ELSEWHERE, (), frozenset()))
    assert world.ruleset() == ""


def test_a_bridge_in_use_by_a_network_of_the_same_name_elsewhere_is_refused(world: World) -> None:
    theirs = msgspec.structs.replace(OTHER, subnet="10.90.0.0/24", gateway="10.90.0.1")
    guest = world.attached(network=theirs)
    rules = world.ruleset()
    with pytest.raises(ConflictError, match=r"pe-other belongs to network other 10\.90\.0\.0/24"):
        bridge.pe_network_create(OTHER)
    bridge.pe_network_remove(OTHER, {})
    assert world.ruleset() == rules
    with closing(guest.listen(80)) as server:
        talk(world.host.connect(guest.address, 80), server)


def test_a_bridge_left_over_from_a_network_with_another_subnet_is_replaced(world: World) -> None:
    before = msgspec.structs.replace(OTHER, subnet="10.90.0.0/24", gateway="10.90.0.1")
    guest = world.attached(network=before)
    guest.close()
    assert settled(world, ["lo", "pe-other"])
    bridge.pe_network_create(OTHER)
    assert "10.90" not in world.ruleset() + world.host.run("ip", "address")
    bridge.pe_network_remove(OTHER, {})
    assert world.links() == NOTHING
    assert world.ruleset() == ""
