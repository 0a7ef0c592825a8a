"""Names and numbers that are only computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugengine_net_bridge import names, nft

from plugengine.kernel import netlink
from plugengine.kernel.addresses import parse_mac
from plugengine.kernel.rtnetlink import Prefix
from plugengine.model import Network


@pytest.mark.parametrize(
    ("network", "bridge"),
    [("default", "pe0"), ("bridge", "pe0"), ("web", "pe-web"), ("twelvechars1", "pe-twelvechars1")],
)
def test_a_short_name_of_a_network_is_seen_in_its_bridge(network: str, bridge: str) -> None:
    assert names.bridge_name(Network(name=network, driver="bridge")) == bridge


@given(st.text(min_size=1, max_size=40))
def test_a_bridge_always_has_a_name_the_kernel_takes(name: str) -> None:
    bridge = names.bridge_name(Network(name=name, driver="bridge"))
    assert len(bridge) < names.IFNAMSIZ
    assert bridge.isascii()
    assert not set(bridge) & set("/: \n")


@given(st.text(alphabet="0123456789abcdef", min_size=1, max_size=64), st.text(min_size=1, max_size=40))
def test_a_container_and_its_network_are_found_again_in_the_mark_of_a_link(container: str, network: str) -> None:
    owner = names.marked_container(names.container_mark(container, network))
    assert owner is not None
    assert names.split_owner(owner) == (container, network)
    assert len(names.veth_name(container, network)) < names.IFNAMSIZ


def test_ids_that_begin_alike_have_different_links() -> None:
    made = {names.veth_name(f"container-{number}", "default") for number in range(1000)}
    assert len(made) == 1000


@pytest.mark.parametrize(
    "text", ["", "02:42:0a:58:00", "02:42:0a:58:00:0", "01:00:5e:00:00:01", "00:00:00:00:00:00", "x"]
)
def test_what_is_no_hardware_address_of_an_interface_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="hardware address"):
        parse_mac(text)


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1", "10.0.0.1/", "10.0.0.1/33", "10.0.0.1/-1", "10.0.0/8", "::1/64", "x/8"]
)
def test_what_is_no_address_with_a_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an IPv4 address"):
        Prefix(text)


def test_a_prefix_knows_its_first_and_last_address() -> None:
    prefix = Prefix("10.88.3.7/16")
    assert prefix.first == 0x0A580000
    assert prefix.last == 0x0A58FFFF


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=70)), max_size=8))
def test_attributes_are_read_as_they_were_written(pairs: list[tuple[int, bytes]]) -> None:
    written = b"".join(netlink.attr(kind, data) for kind, data in pairs)
    assert netlink.attributes(written) == pairs


@given(st.binary(max_size=200))
def test_damaged_attributes_end_the_reading_and_nothing_else(data: bytes) -> None:
    for _, content in netlink.attributes(data):
        assert content in data
    nft.parse_comment(data)
