"""A container on the host's network is connected to nothing new."""

from __future__ import annotations

import os

import plugengine_net_host as host
import pytest

from plugengine.errors import NotSupportedError
from plugengine.hookmarks import calls_of
from plugengine.hookspecs import NetworkSpec
from plugengine.model import Attachment, Capability, Host, HostPath, Network, NetworkRequest, Port

NETWORK = Network(name="host", driver="host")
HOST = Host(root=HostPath("/nowhere"), run_root=HostPath("/nowhere"), kernel=(5, 12))
PORT = Port(host_ip="", host_port=8080, guest_port=80)


def request(netns: int, *ports: Port) -> NetworkRequest:
    return NetworkRequest(container_id="c1", network=NETWORK, network_record={}, netns=netns, ports=ports)


def test_the_hooks_are_those_every_driver_must_have() -> None:
    hooks = {name for name, call in calls_of(NetworkSpec).items() if call.required_of(frozenset())}
    assert hooks == {name for name in vars(host) if name.startswith("pe_")}
    assert host.pe_network_info().capabilities == {Capability.HOST_NAMESPACE}


def test_attach_changes_nothing() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with open("/proc/self/net/dev") as stream:
            before = [line.split(":")[0] for line in stream]
        assert host.pe_network_attach(request(fd)) == Attachment()
        with open("/proc/self/net/dev") as stream:
            assert [line.split(":")[0] for line in stream] == before
    finally:
        os.close(fd)


def test_ports_cannot_be_published() -> None:
    with pytest.raises(NotSupportedError, match="c1 on network host"):
        host.pe_network_attach(request(-1, PORT))


def test_there_is_nothing_to_remove() -> None:
    assert list(host.pe_network_probe(HOST)) == []
    host.pe_network_detach(request(-1), None)
