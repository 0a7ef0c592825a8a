"""Make, repair and remove networks: nothing is left behind, nothing of others is touched."""

from __future__ import annotations

import os
from contextlib import closing

import msgspec
import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import ConflictError, UsageError
from plugengine.hookspecs import NetworkSpec
from plugengine.model import Capability, Network
from tests.conftest import need_tool
from tests.drivers.net_bridge.world import (
    HOST,
    HOST_OUTSIDE,
    NETWORK,
    NOTHING,
    OPTIONS,
    OTHER,
    World,
    port,
    talk,
)
from tests.drivers.options import values


def test_every_hook_of_the_contract_is_there() -> None:
    hooks = {name for name in vars(NetworkSpec) if name.startswith("pe_")}
    assert hooks == {name for name in vars(bridge) if name.startswith("pe_")}
    assert bridge.pe_network_info().capabilities == {Capability.ADDRESSES, Capability.PORTS}


def test_probe_finds_no_reason_and_changes_nothing(world: World) -> None:
    assert list(bridge.pe_network_probe(HOST)) == []
    assert world.links() == NOTHING
    assert world.ruleset() == ""


def test_probe_tells_whoever_is_not_root_so(world: World) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            os.write(writer, "\n".join(bridge.pe_network_probe(HOST)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert "needs root" in stream.read()
    os.waitpid(pid, 0)


def test_the_last_network_leaves_nothing(world: World) -> None:
    guest, other = world.attached(port(8080, 80)), world.attached(port(0, 80), network=OTHER)
    guest.detach()
    other.detach()
    for network in (NETWORK, OTHER):
        bridge.pe_network_remove(network, bridge.pe_network_create(network))
    assert world.links() == NOTHING
    assert world.ruleset() == ""


def test_a_network_that_is_removed_leaves_the_others_alone(world: World) -> None:
    guest = world.attached(port(8080, 80))
    bridge.pe_network_remove(OTHER, bridge.pe_network_create(OTHER))
    assert "10.89" not in world.ruleset()
    with closing(guest.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)


def test_remove_needs_no_record_and_succeeds_on_what_is_gone(world: World) -> None:
    bridge.pe_network_create(NETWORK)
    for _ in range(2):
        bridge.pe_network_remove(NETWORK, {})
        assert world.links() == NOTHING
        assert world.ruleset() == ""


def test_create_twice_is_create_once(world: World) -> None:
    first = bridge.pe_network_create(NETWORK)
    links, rules = world.links(), world.ruleset()
    second = bridge.pe_network_create(NETWORK)
    assert first == second
    assert (world.links(), world.ruleset()) == (links, rules)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(("nft", "flush", "ruleset"), id="rules-gone"),
        pytest.param(("nft", "flush", "table", "ip", "plugengine"), id="rules-flushed"),
        pytest.param(("nft", "flush", "chain", "ip", "plugengine", "postrouting"), id="one-chain-flushed"),
        pytest.param(("nft", "flush", "set", "ip", "plugengine", "bridges"), id="set-flushed"),
        pytest.param(("nft", "flush", "set", "ip", "plugengine", "subnets"), id="interval-set-flushed"),
        pytest.param(("ip", "link", "set", "pe0", "down"), id="bridge-down"),
        pytest.param(("ip", "address", "flush", "dev", "pe0"), id="address-gone"),
        pytest.param(("ip", "link", "delete", "pe0"), id="bridge-gone"),
        pytest.param(("ip", "link", "set", "pe0", "mtu", "1400"), id="mtu-changed"),
        pytest.param(("sysctl", "-qw", "net.ipv4.conf.up0.forwarding=0"), id="forwarding-off"),
        pytest.param(("sysctl", "-qw", "net.ipv4.conf.pe0.forwarding=0"), id="forwarding-of-the-bridge-off"),
    ],
)
def test_create_mends_what_is_broken_also_for_running_guests(world: World, damage: tuple[str, ...]) -> None:
    need_tool(damage[0])
    guest = world.attached()
    links, rules = world.host.run("ip", "-o", "address", "show", "pe0"), world.ruleset()
    world.host.run(*damage)
    bridge.pe_network_create(NETWORK)
    assert world.ruleset() == rules
    flags = "inet 10.88.0.1/16 brd 10.88.255.255"
    assert flags in links
    assert flags in world.host.run("ip", "-o", "address", "show", "pe0")
    assert "mtu 1500" in world.host.run("ip", "link", "show", "pe0")
    with closing(guest.listen(80)) as server:
        talk(world.host.connect(guest.address, 80), server)
    with closing(world.neighbour.listen(80)) as server:
        assert talk(guest.connect("203.0.113.2", 80), server) == HOST_OUTSIDE


def test_a_bridge_of_someone_else_is_not_touched(world: World) -> None:
    world.host.run("ip", "link", "add", "pe0", "type", "bridge")
    with pytest.raises(ConflictError, match="pe0 belongs to someone else"):
        bridge.pe_network_create(NETWORK)
    bridge.pe_network_remove(NETWORK, {})
    bridge.pe_network_gc(HOST, (), frozenset())
    assert world.links() == ["lo", "pe0"]
    assert world.ruleset() == ""


def test_overlapping_subnets_are_refused_and_the_first_keeps_working(world: World) -> None:
    guest = world.attached()
    clash = Network(name="clash", driver="bridge", subnet="10.88.1.0/24", gateway="10.88.1.1", options=OPTIONS)
    rules = world.ruleset()
    with pytest.raises(ConflictError, match=r"10\.88\.1\.0/24 overlaps"):
        bridge.pe_network_create(clash)
    bridge.pe_network_remove(clash, {})
    assert world.ruleset() == rules
    assert "pe-clash" not in world.links()
    assert guest.attachment


def test_neighbouring_subnets_do_not_clash(world: World) -> None:
    before = Network(name="before", driver="bridge", subnet="10.90.0.0/24", gateway="10.90.0.1", options=OPTIONS)
    after = Network(name="after", driver="bridge", subnet="10.90.1.0/24", gateway="10.90.1.1", options=OPTIONS)
    for network in (before, after, before):
        bridge.pe_network_create(network)
    bridge.pe_network_remove(before, {})
    assert "10.90.1.0/24" in world.ruleset()
    bridge.pe_network_remove(after, {})
    assert world.ruleset() == ""


def test_a_network_made_anew_with_another_subnet_forgets_the_old_one(world: World) -> None:
    bridge.pe_network_create(NETWORK)
    moved = msgspec.structs.replace(
        NETWORK, subnet="10.91.0.0/24", gateway="10.91.0.1", options={**OPTIONS, "bridge": "pe0"}
    )
    world.host.run("ip", "link", "delete", "pe0")
    bridge.pe_network_create(moved)
    assert "10.88" not in world.ruleset()
    bridge.pe_network_remove(moved, {})
    assert world.ruleset() == ""


def test_options_set_the_bridge_and_the_mtu(world: World) -> None:
    network = msgspec.structs.replace(OTHER, options={**OPTIONS, "bridge": "mybr", "mtu": 1400})
    guest = world.attached(network=network)
    assert "mybr" in world.links()
    assert "mtu 1400" in world.host.run("ip", "link", "show", "mybr")
    assert "mtu 1400" in guest.run("ip", "link", "show", "eth0")
    assert guest.attachment
    assert guest.attachment.interfaces[0].mtu == 1400


@pytest.mark.parametrize(
    "options",
    [{"bridge": "a/b"}, {"bridge": "x" * 16}, {"mtu": "67"}, {"mtu": "many"}, {"internal": "perhaps"}],
    ids=lambda options: next(iter(options.values()))[:8],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        bridge.pe_network_create(msgspec.structs.replace(OTHER, options=values(bridge.pe_network_info(), options)))
