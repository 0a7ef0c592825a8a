"""A container without a network has a loopback interface that works, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import plugengine_net_none as none
import pytest

from plugengine.errors import NotSupportedError
from plugengine.hookmarks import calls_of
from plugengine.hookspecs import NetworkSpec
from plugengine.kernel.links import IFF_UP, in_namespace, link_flags
from plugengine.kernel.process import CLONE_NEWNET, unshare
from plugengine.model import Attachment, Host, HostPath, Network, NetworkRequest, Port
from tests.conftest import need_root

NETWORK = Network(name="none", driver="none")
HOST = Host(root=HostPath("/nowhere"), run_root=HostPath("/nowhere"), kernel=(5, 12))
PORT = Port(host_ip="", host_port=8080, guest_port=80)


@pytest.fixture
def netns() -> Iterator[int]:
    """An empty network namespace."""
    need_root()
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with in_namespace(here):
        unshare(CLONE_NEWNET)
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    os.close(here)
    yield fd
    os.close(fd)


def request(netns: int, *ports: Port) -> NetworkRequest:
    return NetworkRequest(container_id="c1", network=NETWORK, network_record={}, netns=netns, ports=ports)


def test_the_hooks_are_those_every_driver_must_have() -> None:
    hooks = {name for name, call in calls_of(NetworkSpec).items() if call.required_of(frozenset())}
    assert hooks == {name for name in vars(none) if name.startswith("pe_")}
    assert not none.pe_network_info().capabilities


def test_lo_is_up_and_alone_after_attach(netns: int) -> None:
    with in_namespace(netns):
        assert not link_flags("lo") & IFF_UP
    assert none.pe_network_attach(request(netns)) == Attachment()
    with in_namespace(netns):
        assert link_flags("lo") & IFF_UP
        with open("/proc/thread-self/net/dev") as stream:
            interfaces = [line.split(":")[0].strip() for line in stream if ":" in line]
    assert interfaces == ["lo"]


def test_attach_twice_is_attach_once(netns: int) -> None:
    assert none.pe_network_attach(request(netns)) == none.pe_network_attach(request(netns))


def test_ports_cannot_be_published(netns: int) -> None:
    with pytest.raises(NotSupportedError, match="c1 on network none"):
        none.pe_network_attach(request(netns, PORT))


def test_there_is_nothing_to_remove() -> None:
    assert list(none.pe_network_probe(HOST)) == []
    none.pe_network_detach(request(-1), None)
