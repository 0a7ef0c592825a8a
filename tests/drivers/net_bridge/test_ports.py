"""Published ports: from where they are reached, and when they are refused."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import closing

import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import ConflictError, DriverError, UsageError
from plugengine.model import Port
from tests.drivers.net_bridge.world import HOST_OUTSIDE, NETWORK, Namespace, World, port, talk

Place = Callable[[World], tuple[Namespace, str]]
PLACES: dict[str, Place] = {
    "outside": lambda world: (world.neighbour, HOST_OUTSIDE),
    "host-address": lambda world: (world.host, HOST_OUTSIDE),
    "host-gateway": lambda world: (world.host, str(NETWORK.gateway)),
    "host-loopback": lambda world: (world.host, "127.0.0.1"),
    "host-loopback-other": lambda world: (world.host, "127.9.9.9"),
    "other-guest": lambda world: (world.attached(), HOST_OUTSIDE),
    "other-guest-gateway": lambda world: (world.attached(), str(NETWORK.gateway)),
    "same-guest": lambda world: (world.guests[0], HOST_OUTSIDE),
    "same-guest-gateway": lambda world: (world.guests[0], str(NETWORK.gateway)),
}
ETH_P_IP = 0x0800


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_tcp_port_published_everywhere_is_reached(world: World, bridge_netfilter: str, place: Place) -> None:
    guest = world.attached(port(8080, 80))
    client, address = place(world)
    with closing(guest.listen(80)) as server:
        assert talk(client.connect(address, 8080), server)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_strict_reverse_path_filter_is_no_obstacle(world: World, place: Place) -> None:
    for interface in ("all", "default"):
        world.host.run("sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=1")
    guest = world.attached(port(8080, 80))
    client, address = place(world)
    with closing(guest.listen(80)) as server:
        assert talk(client.connect(address, 8080), server)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_udp_port_published_everywhere_answers(world: World, bridge_netfilter: str, place: Place) -> None:
    guest = world.attached(port(5353, 53, protocol="udp"))
    client, address = place(world)
    with closing(guest.bind_udp(53)) as server, closing(client.bind_udp(0)) as sender:
        sender.connect((address, 5353))
        sender.send(b"question")
        question, asker = server.recvfrom(64)
        assert question == b"question"
        server.sendto(b"answer", asker)
        assert sender.recv(64) == b"answer"


def test_the_guest_sees_the_true_address_of_an_outside_client(world: World) -> None:
    guest = world.attached(port(8080, 80))
    client = world.neighbour
    with closing(guest.listen(80)) as server:
        assert talk(client.connect(HOST_OUTSIDE, 8080), server) == "203.0.113.2"


def test_a_port_published_on_one_address_is_not_reached_at_another(world: World) -> None:
    guest = world.attached(port(8080, 80, on=HOST_OUTSIDE))
    with closing(guest.listen(80)) as server:
        talk(world.neighbour.connect(HOST_OUTSIDE, 8080), server)
        talk(world.host.connect(HOST_OUTSIDE, 8080), server)
        assert not world.host.reaches("127.0.0.1", 8080)
        assert not world.host.reaches(str(NETWORK.gateway), 8080)


def test_a_port_published_on_loopback_is_for_the_host_alone(world: World) -> None:
    guest = world.attached(port(8080, 80, on="127.0.0.1"))
    with closing(guest.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)
        assert not world.neighbour.reaches(HOST_OUTSIDE, 8080)
        assert not world.host.reaches(HOST_OUTSIDE, 8080)


def datagram(source: str, target: str, target_port: int, payload: bytes) -> bytes:
    """Return an IPv4 packet; see ip(7), udp(7)."""
    udp = struct.pack("!HHHH", 4321, target_port, 8 + len(payload), 0) + payload
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target)
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return head + udp


def throw(place: Namespace, packet: bytes, mac: str) -> None:
    """Send a packet no ordinary socket would, straight to a hardware address."""
    with place.inside():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    with closing(raw):
        raw.sendto(packet, ("eth0", ETH_P_IP, 0, 0, bytes.fromhex(mac.replace(":", ""))))


def arrived(server: socket.socket) -> bool:
    server.settimeout(0.2)
    try:
        server.recv(64)
    except TimeoutError:
        return False
    return True


def test_a_guest_cannot_reach_the_loopback_of_the_host(world: World) -> None:
    # CVE-2020-8558; published on every address, so that route_localnet is on
    guest = world.attached(port(8080, 80))
    packet = datagram(guest.address, "127.0.0.1", 9999, b"boo")
    with closing(world.host.bind_udp(9999, "127.0.0.1")) as server:
        throw(guest, packet, "02:42:0a:58:00:01")
        assert not arrived(server)
        world.host.run("nft", "flush", "chain", "ip", "plugengine", "raw")
        throw(guest, packet, "02:42:0a:58:00:01")
        assert arrived(server), "without the rules it would have arrived"


def test_a_neighbour_cannot_reach_a_port_published_on_loopback(world: World) -> None:
    guest = world.attached(port(5353, 53, on="127.0.0.1", protocol="udp"))
    neighbour = world.neighbour
    with closing(guest.bind_udp(53)) as server:
        mac = next(
            word
            for line in world.host.run("ip", "-o", "link", "show", "up0").splitlines()
            for before, word in zip(line.split(), line.split()[1:], strict=False)
            if before == "link/ether"
        )
        packet = datagram("203.0.113.2", "127.0.0.1", 5353, b"boo")
        throw(neighbour, packet, mac)
        assert not arrived(server)
        world.host.run("nft", "flush", "chain", "ip", "plugengine", "prerouting")
        rule = "fib daddr type local dnat ip to meta l4proto . ip daddr . th dport map @ports_at"
        world.host.run("nft", f"add rule ip plugengine prerouting {rule}")
        throw(neighbour, packet, mac)
        assert arrived(server), "without the first rule it would have arrived"


def test_a_port_of_another_container_is_refused_and_named(world: World) -> None:
    holder = world.attached(port(8080, 80))
    guest = world.guest()
    with pytest.raises(ConflictError, match=rf"0\.0\.0\.0:8080/tcp.*container {holder.id}"):
        guest.attach(port(8080, 81))
    assert len(world.links()) == len({"lo", "pe0", "holder"}), "the failed attach left a link"
    guest.attach(port(8081, 81))


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        pytest.param(port(8080, 80), port(8080, 80, on="127.0.0.1"), id="everywhere-then-one"),
        pytest.param(port(8080, 80, on="127.0.0.1"), port(8080, 80), id="one-then-everywhere"),
        pytest.param(port(8080, 80, on="127.0.0.1"), port(8080, 81, on="127.0.0.1"), id="same-address"),
        pytest.param(port(53, 53, protocol="udp"), port(53, 54, protocol="udp"), id="udp"),
    ],
)
def test_overlapping_publications_are_refused(world: World, held: Port, wanted: Port) -> None:
    holder = world.attached(held)
    with pytest.raises(ConflictError, match=holder.id):
        world.attached(wanted)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        pytest.param(port(8080, 80, on="127.0.0.1"), port(8080, 80, on="127.0.0.2"), id="other-address"),
        pytest.param(port(8080, 80), port(8080, 80, protocol="udp"), id="other-protocol"),
    ],
)
def test_publications_that_do_not_overlap_live_side_by_side(world: World, held: Port, wanted: Port) -> None:
    world.attached(held)
    assert world.attached(wanted).attachment


def test_the_same_port_twice_is_refused(world: World) -> None:
    with pytest.raises(ConflictError, match=r"8080/tcp.*the same container"):
        world.attached(port(8080, 80), port(8080, 81))


def test_a_port_a_program_listens_on_is_refused(world: World) -> None:
    with (
        closing(world.host.listen(8080, "127.0.0.1")),
        pytest.raises(ConflictError, match="8080/tcp: a program on this host"),
    ):
        world.attached(port(8080, 80))
    assert world.attached(port(8080, 80)).attachment


def test_a_udp_port_a_program_has_bound_is_refused(world: World) -> None:
    with closing(world.host.bind_udp(5353)), pytest.raises(ConflictError, match="5353/udp: a program"):
        world.attached(port(5353, 53, protocol="udp"))


def test_an_address_the_host_does_not_have_is_an_error_that_names_it(world: World) -> None:
    with pytest.raises(DriverError, match=r"198\.51\.100\.7:8080/tcp"):
        world.attached(port(8080, 80, on="198.51.100.7"))
    assert world.links() == ["lo", "pe0"]


@pytest.mark.parametrize(
    "wrong",
    [port(8080, 80, protocol="icmp"), port(70000, 80), port(80, 0), port(80, 80, on="::1")],
    ids=["protocol", "host-port", "guest-port", "ipv6"],
)
def test_nonsense_is_refused(world: World, wrong: Port) -> None:
    with pytest.raises(UsageError):
        world.attached(wrong)


def test_port_zero_gets_free_ports(world: World) -> None:
    guest = world.attached(port(0, 80), port(0, 80), port(8080, 81))
    assert guest.attachment
    numbers = [published.host_port for published in guest.attachment.ports]
    assert len(set(numbers)) == 3
    assert 0 not in numbers
    with closing(guest.listen(80)) as server:
        for published in guest.attachment.ports:
            if published.guest_port == 80:
                talk(world.host.connect("127.0.0.1", published.host_port), server)


def test_published_ports_come_back_in_the_order_asked_for(world: World) -> None:
    guest = world.attached(port(0, 80), port(8080, 81), port(0, 82))
    assert guest.attachment
    assert [published.guest_port for published in guest.attachment.ports] == [80, 81, 82]


def test_published_ports_are_replaced_while_the_guest_runs(world: World) -> None:
    guest = world.attached(port(8080, 80), port(8081, 80))
    assert guest.attachment
    before = guest.attachment
    after = bridge.pe_network_ports(guest.request(port(8081, 80), port(8082, 80)), before)
    assert [published.host_port for published in after.ports] == [8081, 8082]
    assert after.interfaces == before.interfaces
    with closing(guest.listen(80)) as server:
        assert not world.host.reaches("127.0.0.1", 8080)
        talk(world.host.connect("127.0.0.1", 8081), server)
        talk(world.host.connect("127.0.0.1", 8082), server)
    gone = bridge.pe_network_ports(guest.request(), after)
    assert gone.ports == ()
    assert not world.host.reaches("127.0.0.1", 8081)


def test_ports_that_cannot_be_replaced_stay_as_they_were(world: World) -> None:
    world.attached(port(9090, 80))
    guest = world.attached(port(8080, 80))
    assert guest.attachment
    with pytest.raises(ConflictError):
        bridge.pe_network_ports(guest.request(port(8088, 80), port(9090, 80)), guest.attachment)
    with closing(guest.listen(80)) as server:
        talk(world.host.connect("127.0.0.1", 8080), server)
        assert not world.host.reaches("127.0.0.1", 8088)


def test_a_withdrawn_port_can_be_published_by_another(world: World) -> None:
    first = world.attached(port(8080, 80))
    first.detach()
    second = world.attached(port(8080, 80))
    first.detach()  # once more: it must not take away what is another's now
    bridge.pe_network_detach(first.request(netns=-1), None)
    with closing(second.listen(80)) as server:
        assert talk(world.host.connect("127.0.0.1", 8080), server)


def test_sctp_is_published_too(world: World) -> None:
    world.attached(port(3868, 3868, protocol="sctp"))
    assert "sctp . 3868" in world.ruleset()
