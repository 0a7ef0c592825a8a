"""Interfaces come up inside their own network namespace, and the caller comes home."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from plugengine.kernel import links
from plugengine.kernel.process import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, unshare
from tests.system.kernel.conftest import InChild
from tests.waiting import PATIENCE_S


def network() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def test_lo_of_a_new_namespace_is_down_and_comes_up(in_child: InChild) -> None:
    def run() -> list[bool]:
        unshare(CLONE_NEWNET)
        before = bool(links.link_flags("lo") & links.IFF_UP)
        links.link_up("lo")
        links.link_up("lo")
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname(), timeout=PATIENCE_S).close()
        flags = links.link_flags(b"lo")
        return [before, bool(flags & links.IFF_UP), bool(flags & links.IFF_LOOPBACK)]

    assert in_child(run) == [False, True, True]


def test_lo_of_another_namespace_comes_up_by_descriptor(in_child: InChild) -> None:
    def run() -> list[bool]:
        unshare(CLONE_NEWNET)
        first = os.open("/proc/self/ns/net", os.O_RDONLY)
        unshare(CLONE_NEWNET)
        home = network()
        links.link_up("lo", first)
        with links.in_namespace(first):
            there = network()
            up = links.link_flags("lo") & links.IFF_UP
        return [bool(up), there != home, network() == home, bool(links.link_flags("lo") & links.IFF_UP)]

    assert in_child(run) == [True, True, True, False]


def test_the_way_home_is_taken_after_an_error_too(in_child: InChild) -> None:
    def run() -> list[bool]:
        home = network()
        unshare(CLONE_NEWNET)
        other = os.open("/proc/self/ns/net", os.O_RDONLY)
        unshare(CLONE_NEWNET)
        inside = network()
        descriptors = os.listdir("/proc/self/fd")
        with pytest.raises(KeyError), links.in_namespace(other):
            raise KeyError("x")
        return [network() == inside, network() != home, os.listdir("/proc/self/fd") == descriptors]

    assert in_child(run) == [True, True, True]


def test_a_descriptor_of_another_kind_is_not_entered() -> None:
    home = network()
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"descriptor {fd}"), links.in_namespace(fd):
            pass
        with links.in_namespace(fd, CLONE_NEWUTS):
            pass
    finally:
        os.close(fd)
    assert network() == home


def test_a_namespace_without_a_way_back_is_refused() -> None:
    with pytest.raises(ValueError, match="left again"):
        links.in_namespace(0, CLONE_NEWNS)


def test_an_interface_that_is_not_there_is_named(in_child: InChild) -> None:
    def run() -> list[object]:
        unshare(CLONE_NEWNET)
        try:
            links.link_up("nothere")
        except OSError as exc:
            return [exc.errno, exc.filename]
        return []

    assert in_child(run) == [errno.ENODEV, "nothere"]


def test_a_name_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 15 bytes"):
        links.link_flags("a" * 16)
