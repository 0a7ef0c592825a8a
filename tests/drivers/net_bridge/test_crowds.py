"""Many processes at once, and some that are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import closing

import plugengine_net_bridge as bridge
import pytest

from plugengine.errors import ConflictError
from plugengine.model import Network
from tests.drivers.net_bridge.world import (
    HOST,
    NETWORK,
    NOTHING,
    OPTIONS,
    World,
    port,
    settled,
    talk,
)


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
            bridge.pe_network_detach(guest.request(netns=-1), None)
        elif number % 4:
            guest.close()
    bridge.pe_network_gc(HOST, (NETWORK,), frozenset())
    assert settled(world, ["lo", "pe0"])
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
    os.close(ready[1])
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * count
    os.close(ready[0])
    os.close(go[0])
    assert len(world.links()) == count + 2
    rules = world.ruleset()
    assert all(f"tcp . {9000 + number} " in rules for number in range(count))
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
            bridge.pe_network_detach(guest.request(netns=-1), None)
            guest.close()


@pytest.mark.slow
def test_networks_that_come_and_go_at_once_do_not_harm_each_other(world: World) -> None:
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            network = Network(
                name=f"n{number}",
                driver="bridge",
                subnet=f"10.{100 + number}.0.0/24",
                gateway=f"10.{100 + number}.0.1",
                options=OPTIONS,
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
