"""Every test runs inside a network namespace of its own: nothing here can touch the machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from plugengine.kernel.addresses import InterfaceSocket
from tests.conftest import need, need_root, need_tool
from tests.drivers.net_bridge.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """A host of its own; descriptors are counted before and after."""
    need_root()
    need_tool("nft")
    before = set(os.listdir("/proc/self/fd"))
    made = World()
    with closing(made), made.host.inside():
        with closing(InterfaceSocket()) as interfaces:
            interfaces.up("lo")
        yield made
    assert set(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


@pytest.fixture(params=["1", "0"], ids=["frames-filtered", "frames-not-filtered"])
def bridge_netfilter(world: World, request: pytest.FixtureRequest) -> str:
    """With and without br_netfilter, which lets the packet filter see frames between ports of a bridge."""
    path = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if os.path.exists(path):
        with open(path, "w") as stream:
            stream.write(request.param)
    elif request.param == "1":
        need("needs br_netfilter")
    return str(request.param)
