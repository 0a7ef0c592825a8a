"""Network namespaces are told apart, found again and counted in; on the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess

from plugengine.kernel import netns
from plugengine.kernel.links import in_namespace, link_up
from tests.conftest import need_root


def test_a_namespace_is_found_through_our_own_descriptor() -> None:
    need_root()
    fd = netns.make()
    wanted = netns.identify(fd)
    found = netns.find(wanted)
    assert found is not None
    assert os.fstat(found).st_ino == os.fstat(fd).st_ino
    os.close(found)
    os.close(fd)


def test_a_namespace_is_found_through_a_process_in_it() -> None:
    need_root()
    fd = netns.make()
    wanted = netns.identify(fd)
    with in_namespace(fd):
        sleeper = subprocess.Popen(["sleep", "100"])
    os.close(fd)
    try:
        found = netns.find(wanted)
        assert found is not None
        assert netns.identify(found) == wanted
        os.close(found)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_one_that_is_gone_is_not_taken_for_the_next_with_its_number() -> None:
    need_root()
    first = netns.make()
    old = netns.identify(first)
    os.close(first)
    assert netns.find(old) is None
    second = netns.make()
    new = netns.identify(second)
    assert new.cookie != old.cookie
    assert netns.find(netns.NetnsId(new.inode, old.cookie)) is None, "the number alone is no identity"
    os.close(second)


def test_counters_are_those_of_the_interface() -> None:
    need_root()
    fd = netns.make()
    link_up("lo", fd)
    with in_namespace(fd), socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    counted = netns.counters("lo", fd)
    assert counted.rx_packets >= 3
    assert counted.rx_bytes == counted.tx_bytes > 0
    assert netns.counters("eth9", fd) == netns.Counters()
    assert netns.identify(fd).cookie
    os.close(fd)
