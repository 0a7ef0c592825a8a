"""The host forwards for the networks and for nobody else, and only as long as there is one."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial

import msgspec
import plugengine_net_bridge as bridge
import pytest

from plugengine.kernel import sysctl
from plugengine.model import Network
from plugengine.testing.children import all_at_once, count_steps, kill_at_step, spread
from plugengine.testing.network import view
from tests.conftest import need_tool
from tests.drivers.net_bridge.world import (
    HOST,
    HOST_OUTSIDE,
    IMPATIENCE_S,
    NEIGHBOUR,
    NETWORK,
    OPTIONS,
    OTHER,
    PATIENCE_S,
    Namespace,
    World,
    port,
    talk,
)

BRANCH_GATEWAY = "192.0.2.1"  # RFC 5737
BRANCH = "192.0.2.2"
HOST_6, NEIGHBOUR_6 = "2001:db8:1::1", "2001:db8:1::2"  # RFC 3849
FORWARDED = [NEIGHBOUR, BRANCH]
BRANCH_GATEWAY_6, BRANCH_6 = "2001:db8:2::1", "2001:db8:2::2"
INTERNAL = msgspec.structs.replace(OTHER, options={**OPTIONS, "internal": True})


@pytest.fixture
def branch(world: World) -> Namespace:
    """A second machine outside; it and the neighbour take the host for a router."""
    need_tool("ip")
    made = world.connected("up1", BRANCH_GATEWAY, BRANCH)
    for place, link, address, gateway in (
        (world.host, "up0", HOST_6, None),
        (world.host, "up1", BRANCH_GATEWAY_6, None),
        (world.neighbour, "eth0", NEIGHBOUR_6, HOST_6),
        (made, "eth0", BRANCH_6, BRANCH_GATEWAY_6),
    ):
        place.run("ip", "address", "add", f"{address}/64", "dev", link, "nodad")
        if gateway:
            place.run("ip", "-6", "route", "add", "default", "via", gateway)
    world.neighbour.run("ip", "route", "add", "default", "via", HOST_OUTSIDE)
    made.run("ip", "route", "add", "default", "via", BRANCH_GATEWAY)
    for place in (world.host, world.neighbour, made):
        await_addresses(place)
    return made


def await_addresses(place: Namespace) -> None:
    """Wait until nobody can claim the addresses the kernel has given: before, they are not used."""
    end = time.monotonic() + PATIENCE_S
    while place.run("ip", "-6", "address", "show", "tentative"):
        assert time.monotonic() < end
        time.sleep(0.02)


def ways_through(world: World, branch: Namespace, *likely: str) -> list[str]:
    """Return the addresses reached from one link of the host to the other, both ways, IPv4 and IPv6.

    What is likely is waited for, else not to be reached is told by a moment's silence.
    """
    found = []
    for source, target, address in (
        (branch, world.neighbour, NEIGHBOUR),
        (world.neighbour, branch, BRANCH),
        (branch, world.neighbour, NEIGHBOUR_6),
        (world.neighbour, branch, BRANCH_6),
    ):
        with closing(target.listen(9000, "::" if ":" in address else "0.0.0.0")):
            if source.reaches(address, 9000, within_s=PATIENCE_S if address in likely else IMPATIENCE_S):
                found.append(address)
    return found


def settings(world: World) -> str:
    """Return every setting of the host's network as sysctl(8) shows it, but for what counts by itself."""
    need_tool("sysctl")
    lines = world.host.run("sysctl", "-a", "--pattern", r"^net\.(ipv4|ipv6|core|netfilter)\.").splitlines()
    return "\n".join(line for line in lines if "conntrack_count" not in line)


def forwarding(world: World, name: str) -> str:
    return world.host.run("sysctl", "-n", f"net.ipv4.conf.{name}.forwarding").strip()


def await_forwarding(name: str) -> None:
    """Whoever removed the last network before this one may be about to put back what it took."""
    end = time.monotonic() + PATIENCE_S
    while sysctl.read(sysctl.forwarding(name)) == "0":
        assert time.monotonic() < end, f"{name} does not forward"


def assert_works(world: World, network: Network = NETWORK) -> None:
    """A new guest reaches the outside and is reached at a published port."""
    guest = world.attached(port(0, 80), network=network)
    assert guest.attachment
    with closing(world.neighbour.listen(80)) as server:
        assert talk(guest.connect(NEIGHBOUR, 80), server) == HOST_OUTSIDE
    with closing(guest.listen(80)) as server:
        talk(world.neighbour.connect(HOST_OUTSIDE, guest.attachment.ports[0].host_port), server)
    guest.detach()


def test_nothing_is_forwarded_between_other_links(world: World, branch: Namespace) -> None:
    assert ways_through(world, branch) == []
    assert_works(world)
    assert ways_through(world, branch) == []
    world.attached(port(9000, 80))
    assert ways_through(world, branch) == []
    bridge.pe_network_remove(NETWORK, {})
    assert ways_through(world, branch) == []


def test_the_last_network_takes_every_setting_back(world: World, branch: Namespace) -> None:
    assert branch
    before = settings(world)
    for network in (NETWORK, OTHER):
        assert_works(world, network)
    bridge.pe_network_remove(NETWORK, {})
    assert_works(world, OTHER)
    bridge.pe_network_remove(OTHER, {})
    assert settings(world) == before


def test_a_new_network_namespace_of_the_host_inherits_nothing(world: World) -> None:
    bridge.pe_network_create(NETWORK)
    for name in ("all", "default"):
        assert forwarding(world, name) == "0"


def test_links_that_forward_by_themselves_go_on_during_and_after(world: World, branch: Namespace) -> None:
    for link in ("up0", "up1"):
        world.host.run("sysctl", "-qw", f"net.ipv4.conf.{link}.forwarding=1")
    before = settings(world)
    assert ways_through(world, branch, *FORWARDED) == FORWARDED
    assert_works(world)
    assert ways_through(world, branch, *FORWARDED) == FORWARDED
    bridge.pe_network_remove(NETWORK, {})
    assert ways_through(world, branch, *FORWARDED) == FORWARDED
    assert settings(world) == before


def test_a_router_stays_one_during_and_after(world: World, branch: Namespace) -> None:
    world.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    world.host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    before, everywhere = settings(world), [*FORWARDED, NEIGHBOUR_6, BRANCH_6]
    assert ways_through(world, branch, *everywhere) == everywhere
    assert_works(world)
    assert ways_through(world, branch, *everywhere) == everywhere
    bridge.pe_network_remove(NETWORK, {})
    assert ways_through(world, branch, *everywhere) == everywhere
    assert settings(world) == before


def test_who_makes_the_host_a_router_meanwhile_has_the_last_word(world: World, branch: Namespace) -> None:
    assert_works(world)
    world.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert_works(world)
    assert ways_through(world, branch, *FORWARDED) == FORWARDED
    bridge.pe_network_remove(NETWORK, {})
    assert ways_through(world, branch, *FORWARDED) == FORWARDED


def test_who_turns_on_single_links_meanwhile_has_the_last_word(world: World, branch: Namespace) -> None:
    assert_works(world)
    for link in ("up0", "up1"):
        world.host.run("sysctl", "-qw", f"net.ipv4.conf.{link}.forwarding=1")
    assert_works(world)
    assert ways_through(world, branch, *FORWARDED) == FORWARDED
    bridge.pe_network_remove(NETWORK, {})
    assert ways_through(world, branch, *FORWARDED) == FORWARDED


def test_a_link_a_router_keeps_out_is_not_turned_on(world: World, branch: Namespace) -> None:
    world.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    world.host.run("sysctl", "-qw", "net.ipv4.conf.up1.forwarding=0")
    assert_works(world)
    assert ways_through(world, branch) == []
    assert forwarding(world, "up1") == "0"


def test_what_others_forward_from_links_of_their_own_passes_at_once(world: World, branch: Namespace) -> None:
    """As for a virtual machine's network made after ours: out, the answers, and in by a destination they rewrote."""
    assert_works(world)
    inner = world.connected("vm0", "198.51.100.1", "198.51.100.2")
    inner.run("ip", "route", "add", "default", "via", "198.51.100.1")
    world.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    need_tool("nft")
    world.host.run(
        "nft", "add table ip vm; add chain ip vm nat { type nat hook prerouting priority -90; };"
        "add rule ip vm nat iifname up0 tcp dport 2222 dnat to 198.51.100.2:22",
    )  # fmt: skip
    with closing(branch.listen(80)) as server:
        talk(inner.connect(BRANCH, 80), server)
    with closing(inner.listen(22)) as server:
        talk(world.neighbour.connect(HOST_OUTSIDE, 2222), server)


def test_the_rules_come_back_after_a_flush_and_everything_is_taken_back(world: World, branch: Namespace) -> None:
    before = settings(world)
    assert_works(world)
    world.host.run("nft", "flush", "ruleset")
    assert_works(world)
    assert ways_through(world, branch) == []
    bridge.pe_network_remove(NETWORK, {})
    assert settings(world) == before


def test_a_removal_after_a_flush_takes_everything_back(world: World) -> None:
    before = settings(world)
    assert_works(world)
    world.host.run("nft", "flush", "ruleset")
    bridge.pe_network_remove(NETWORK, {})
    assert settings(world) == before


def test_nothing_is_forgotten_when_bridge_and_rules_are_deleted_by_hand(world: World, branch: Namespace) -> None:
    before = settings(world)
    assert_works(world)
    world.host.run("ip", "link", "delete", "pe0")
    world.host.run("nft", "flush", "ruleset")
    assert_works(world)
    assert ways_through(world, branch) == []
    bridge.pe_network_remove(NETWORK, {})
    assert settings(world) == before


def test_a_link_renamed_meanwhile_is_guarded_and_taken_back(world: World, branch: Namespace) -> None:
    assert_works(world)
    world.host.run("ip", "link", "set", "up1", "name", "wan0")  # while it is up: Linux 6.3
    assert ways_through(world, branch) == []
    bridge.pe_network_remove(NETWORK, {})
    assert forwarding(world, "wan0") == "0"


def test_a_link_that_came_later_serves_the_network_from_the_next_create_on(world: World) -> None:
    before = settings(world)
    guest = world.attached()
    later = world.connected("up7", BRANCH_GATEWAY, BRANCH)
    with closing(later.listen(80)) as server:
        assert not guest.reaches(BRANCH, 80)
        bridge.pe_network_create(NETWORK)
        assert talk(guest.connect(BRANCH, 80), server) == BRANCH_GATEWAY
    guest.detach()
    world.host.run("ip", "link", "delete", "up7")
    bridge.pe_network_remove(NETWORK, {})
    assert settings(world) == before


def test_a_network_without_a_way_out_turns_nothing_on(world: World) -> None:
    before = settings(world)
    world.attached(network=INTERNAL)
    assert view.forwarding() == ()
    world.guests[0].detach()
    bridge.pe_network_remove(INTERNAL, {})
    assert settings(world) == before


def test_killed_at_any_step_of_making_and_removing_nothing_else_passes_or_stays(
    world: World, branch: Namespace
) -> None:
    before = settings(world)

    def create() -> None:
        bridge.pe_network_create(NETWORK)

    def remove() -> None:
        bridge.pe_network_remove(NETWORK, {})

    for verb, prepare in ((create, remove), (remove, create)):
        prepare()
        total = count_steps(verb)
        for step in spread(total, 12):
            prepare()
            kill_at_step(verb, step)
            when = f"after {verb.__name__} was killed at step {step} of {total}"
            with closing(world.neighbour.listen(9000)):
                assert not branch.reaches(NEIGHBOUR, 9000), when
            remove()
            assert settings(world) == before, when


def test_what_a_killed_process_left_is_collected(world: World) -> None:
    before = settings(world)

    def live() -> None:
        bridge.pe_network_remove(NETWORK, bridge.pe_network_create(NETWORK))

    total = count_steps(live)
    for step in spread(total, 24):
        kill_at_step(live, step)
        bridge.pe_network_gc(HOST, (), frozenset())
        assert settings(world) == before, f"after it was killed at step {step} of {total}"


def test_whoever_makes_a_network_while_the_last_one_goes_can_use_it(world: World) -> None:
    """Eight engines make, use and remove a network each, over and over, and each works while it is there."""
    before = settings(world)

    def live(number: int) -> None:
        network = Network(
            name=f"n{number}",
            driver="bridge",
            subnet=f"10.90.{number}.0/24",
            gateway=f"10.90.{number}.1",
            options=OPTIONS,
        )
        for _ in range(20):
            bridge.pe_network_create(network)
            for name in ("up0", f"pe-n{number}"):
                await_forwarding(name)
            bridge.pe_network_remove(network, {})

    all_at_once([partial(live, number) for number in range(8)])
    assert settings(world) == before
    assert world.ruleset() == ""
