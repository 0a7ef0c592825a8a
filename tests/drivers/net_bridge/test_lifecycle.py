"""Make, mend, unmake: nothing is left behind, whoever dies when."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import closing

import msgspec
import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import ConflictError, DriverError, UsageError
from plugengine.hookspecs import NetworkSpec
from plugengine.kernel.process import CLONE_NEWNET, CLONE_NEWUSER, unshare
from plugengine.model import Attachment, Capability, Network, decode, encode
from tests.conftest import need_tool
from tests.drivers.net_bridge.world import HOST, HOST_OUTSIDE, NETWORK, OTHER, World, port, talk

NOTHING = ["lo"]


def settled(world: World, links: list[str]) -> bool:
    """Wait for the kernel to remove the links of namespaces that ended."""
    for _ in range(200):
        if world.links() == links:
            return True
        time.sleep(0.01)
    return False


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


def test_a_namespace_that_belongs_to_a_user_namespace_is_connected(world: World) -> None:
    guest = world.guest()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWUSER | CLONE_NEWNET)
            os.write(writer, b"+")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"+"
        os.close(guest.fd)
        guest.fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        guest.attach(port(8080, 80))
        with closing(guest.listen(80)) as server:
            talk(world.host.connect("127.0.0.1", 8080), server)
        with guest.inside(), open("/proc/sys/net/ipv6/conf/eth0/accept_ra") as stream:
            assert stream.read().strip() == "0"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_the_last_network_leaves_nothing(world: World) -> None:
    guest, other = world.attached(port(8080, 80)), world.attached(port(0, 80), network=OTHER)
    guest.detach()
    other.detach()
    for network in (NETWORK, OTHER):
        assert bridge.pe_network_remove(network, bridge.pe_network_create(network))
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
        assert bridge.pe_network_remove(NETWORK, {})
        assert world.links() == NOTHING
        assert world.ruleset() == ""


def test_create_twice_is_create_once(world: World) -> None:
    first = bridge.pe_network_create(NETWORK)
    links, rules = world.links(), world.ruleset()
    second = bridge.pe_network_create(NETWORK)
    assert {**first, "ip_forward_was": "1"} == second
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
        pytest.param(("sysctl", "-qw", "net.ipv4.ip_forward=0"), id="forwarding-off"),
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
    clash = Network(name="clash", driver="bridge", subnet="10.88.1.0/24", gateway="10.88.1.1")
    rules = world.ruleset()
    with pytest.raises(ConflictError, match=r"10\.88\.1\.0/24 overlaps"):
        bridge.pe_network_create(clash)
    bridge.pe_network_remove(clash, {})
    assert world.ruleset() == rules
    assert "pe-clash" not in world.links()
    assert guest.attachment


def test_neighbouring_subnets_do_not_clash(world: World) -> None:
    before = Network(name="before", driver="bridge", subnet="10.90.0.0/24", gateway="10.90.0.1")
    after = Network(name="after", driver="bridge", subnet="10.90.1.0/24", gateway="10.90.1.1")
    for network in (before, after, before):
        bridge.pe_network_create(network)
    bridge.pe_network_remove(before, {})
    assert "10.90.1.0/24" in world.ruleset()
    bridge.pe_network_remove(after, {})
    assert world.ruleset() == ""


def test_a_network_made_anew_with_another_subnet_forgets_the_old_one(world: World) -> None:
    bridge.pe_network_create(NETWORK)
    moved = msgspec.structs.replace(NETWORK, subnet="10.91.0.0/24", gateway="10.91.0.1")
    world.host.run("ip", "link", "delete", "pe0")
    bridge.pe_network_create(moved)
    assert "10.88" not in world.ruleset()
    bridge.pe_network_remove(moved, {})
    assert world.ruleset() == ""


def test_options_set_the_bridge_and_the_mtu(world: World) -> None:
    network = msgspec.structs.replace(OTHER, options={"bridge": "mybr", "mtu": "1400"})
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
        bridge.pe_network_create(msgspec.structs.replace(OTHER, options=options))


def test_the_hardware_address_goes_with_the_address_unless_it_is_given(world: World) -> None:
    one, two = world.attached(), world.guest()
    attachment = two.attach(mac="02:00:00:00:00:07")
    assert one.attachment
    for guest, mac in ((one, one.attachment.interfaces[0].mac), (two, attachment.interfaces[0].mac)):
        assert str(mac) in guest.run("ip", "link", "show", "eth0")
    assert one.attachment.interfaces[0].mac == "02:42:0a:58:00:02"
    assert attachment.interfaces[0].mac == "02:00:00:00:00:07"


def test_an_attachment_survives_json(world: World) -> None:
    guest = world.attached(port(8080, 80))
    assert guest.attachment
    assert decode(Attachment, encode(guest.attachment)) == guest.attachment


def test_detach_takes_the_link_away_from_a_living_namespace(world: World) -> None:
    guest = world.attached(port(8080, 80))
    guest.detach()
    assert world.links() == ["lo", "pe0"]
    assert "eth0" not in guest.run("ip", "-o", "link")
    assert "8080" not in world.ruleset()


def test_detach_after_the_namespace_has_ended(world: World) -> None:
    guest = world.attached(port(8080, 80))
    guest.close()
    guest.detach()
    assert "8080" not in world.ruleset()
    assert settled(world, ["lo", "pe0"])
    guest.detach()


def test_detach_after_the_namespace_ended_does_not_wait_for_the_link(world: World) -> None:
    guests = [world.attached() for _ in range(5)]
    spent = []
    for guest in guests:
        guest.close()
        start = time.perf_counter()
        guest.detach()
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.01
    assert settled(world, ["lo", "pe0"])


def test_detach_without_an_attachment_finds_everything_by_the_id(world: World) -> None:
    guest = world.attached(port(8080, 80))
    guest.attachment = None
    guest.detach()
    assert world.links() == ["lo", "pe0"]
    assert "8080" not in world.ruleset()


def test_attach_again_replaces_what_an_interrupted_attach_left(world: World) -> None:
    guest = world.attached(port(8080, 80))
    guest.attach(port(8080, 80))
    with closing(guest.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)


def test_attach_that_fails_inside_leaves_nothing(world: World) -> None:
    guest = world.guest()
    with guest.inside():
        for number in range(32):
            os.system(f"ip link add eth{number} type bridge")
    with pytest.raises(DriverError, match=f"connect container {guest.id} to network default"):
        guest.attach()
    assert world.links() == ["lo", "pe0"]


def test_attach_to_a_network_that_is_not_there_says_so(world: World) -> None:
    guest = world.guest()
    with pytest.raises(DriverError, match="pe0"):
        bridge.pe_network_attach(guest.request())
    assert world.links() == NOTHING


def test_attach_stays_in_its_namespace_and_leaves_no_thread(world: World) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    threads = threading.active_count()
    world.attached(port(8080, 80))
    assert os.readlink("/proc/thread-self/ns/net") == before
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/task")) == threads


def test_stats_count_what_the_guest_sends_and_receives(world: World) -> None:
    guest = world.attached()
    assert guest.attachment
    with closing(world.host.bind_udp(9999)) as server, closing(guest.bind_udp(0)) as client:
        before = bridge.pe_network_stats(guest.attachment, guest.fd)
        for _ in range(10):
            client.sendto(bytes(1000), ("10.88.0.1", 9999))
            server.recv(2000)
        after = bridge.pe_network_stats(guest.attachment, guest.fd)
    assert after.tx_packets - before.tx_packets >= 10
    assert after.tx_bytes - before.tx_bytes >= 10_000
    assert after.rx_bytes - before.rx_bytes < 5_000


def test_gc_removes_what_no_container_owns_and_nothing_else(world: World) -> None:
    kept, lost = world.attached(port(8080, 80)), world.attached(port(8081, 80))
    far = world.attached(port(8082, 80, on="127.0.0.1"), network=OTHER)
    removed = list(bridge.pe_network_gc(HOST, (NETWORK,), frozenset((kept.id, far.id))))
    assert kept.attachment
    assert world.links() == sorted(["lo", "pe0", str(kept.attachment.interfaces[0].host_name)])
    rules = world.ruleset()
    assert kept.id in rules
    assert lost.id not in rules
    assert "10.89" not in rules
    assert any(lost.id in line for line in removed)
    assert any("pe-other" in line for line in removed)
    with closing(kept.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)
    assert list(bridge.pe_network_gc(HOST, (NETWORK,), frozenset((kept.id,)))) == []


def test_gc_of_everything_leaves_nothing(world: World) -> None:
    world.attached(port(8080, 80))
    world.attached(network=msgspec.structs.replace(OTHER, options={"internal": "true"}))
    bridge.pe_network_gc(HOST, (), frozenset())
    assert world.links() == NOTHING
    assert world.ruleset() == ""


@pytest.mark.slow
def test_whoever_is_killed_while_attaching_leaves_what_gc_finds(world: World) -> None:
    random.seed(7)
    for number in range(25):
        guest = world.guest(container_id=f"{number:064x}")
        pid = os.fork()
        if pid == 0:
            try:
                guest.attach(port(8000 + number, 80), port(0, 81, protocol="udp"))
            finally:
                os._exit(0)
        time.sleep(random.random() * 0.008)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if number % 2:
            bridge.pe_network_detach(NETWORK, guest.id, None)
    bridge.pe_network_gc(HOST, (), frozenset())
    assert world.links() == NOTHING
    assert world.ruleset() == ""


@pytest.mark.slow
def test_fifty_processes_attach_and_detach_at_once(world: World) -> None:
    count = 50
    go, ready = os.pipe(), os.pipe()
    guests = [world.guest() for _ in range(count)]
    pids = []
    for number, guest in enumerate(guests):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(ready[1])
                os.read(ready[0], 1)
                guest.attach(port(9000 + number, 80), port(0, 81))
                os.write(go[1], b"+")
                os.close(go[1])
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(go[1])
    start = time.perf_counter()
    os.close(ready[1])
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * count
    spent = time.perf_counter() - start
    os.close(ready[0])
    os.close(go[0])
    assert len(world.links()) == count + 2
    rules = world.ruleset()
    assert all(f"tcp . {9000 + number} " in rules for number in range(count))
    assert spent < 20
    with closing(guests[7].listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 9007), server)
    for guest in guests:
        guest.close()
        guest.detach()
    assert settled(world, ["lo", "pe0"])
    bridge.pe_network_remove(NETWORK, {})
    assert world.ruleset() == ""


@pytest.mark.slow
def test_of_two_that_want_overlapping_ports_at_once_one_gets_them(world: World) -> None:
    bridge.pe_network_create(NETWORK)
    for number in range(30):
        guests = [world.guest(container_id=f"{number:032x}{who:032x}") for who in range(2)]
        wanted = (port(8080, 80), port(8080, 80, on="127.0.0.1"))
        go, wait = os.pipe()[::-1]
        pids = []
        for guest, one in zip(guests, wanted, strict=True):
            pid = os.fork()
            if pid == 0:
                code = 2
                try:
                    os.close(go)
                    os.read(wait, 1)
                    guest.attach(one)
                    code = 0
                except ConflictError:
                    code = 1
                finally:
                    os._exit(code)
            pids.append(pid)
        os.close(go)
        codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
        os.close(wait)
        assert codes == [0, 1]
        for guest in guests:
            bridge.pe_network_detach(NETWORK, guest.id, None)
            guest.close()


@pytest.mark.slow
def test_networks_that_come_and_go_at_once_do_not_harm_each_other(world: World) -> None:
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            network = Network(
                name=f"n{number}", driver="bridge", subnet=f"10.{100 + number}.0.0/24", gateway=f"10.{100 + number}.0.1"
            )
            try:
                for _ in range(5):
                    bridge.pe_network_create(network)
                    if f"pe-n{number}" not in world.ruleset():
                        break
                    bridge.pe_network_remove(network, {})
                else:
                    code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert world.links() == NOTHING
    assert world.ruleset() == ""
