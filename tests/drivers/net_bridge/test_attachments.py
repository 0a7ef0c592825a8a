"""Connect and disconnect containers, also when their namespace is gone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import DriverError
from plugengine.kernel.process import CLONE_NEWNET, CLONE_NEWUSER, unshare
from plugengine.model import Attachment, decode, encode
from tests.drivers.net_bridge.world import (
    NOTHING,
    World,
    port,
    settled,
    talk,
)


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
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number, guest in enumerate([world.attached() for _ in range(16)]):
        ended = number % 2 == 0
        if ended:
            guest.close()
        start = time.perf_counter()
        guest.detach()
        spent[ended].append(time.perf_counter() - start)
    assert min(spent[True]) < min(spent[False]), "the other half of the links is removed and waited for"
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
        assert talk(world.host.connect("127.0.0.1", 8080), server)


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
    threads = len(os.listdir("/proc/self/task"))
    world.attached(port(8080, 80))
    assert os.readlink("/proc/thread-self/ns/net") == before
    assert len(os.listdir("/proc/self/task")) == threads


def test_stats_count_what_the_guest_sends_and_receives(world: World) -> None:
    guest = world.attached()
    assert guest.attachment
    with closing(world.host.bind_udp(9999)) as server, closing(guest.bind_udp(0)) as client:
        before = bridge.pe_network_stats(guest.request(), guest.attachment)
        for _ in range(10):
            client.sendto(bytes(1000), ("10.88.0.1", 9999))
            server.recv(2000)
        after = bridge.pe_network_stats(guest.request(), guest.attachment)
    assert after.tx_packets - before.tx_packets >= 10
    assert after.tx_bytes - before.tx_bytes >= 10_000
    assert after.rx_bytes - before.rx_bytes < 5_000
