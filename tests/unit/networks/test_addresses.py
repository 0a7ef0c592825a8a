"""Addresses and subnets as numbers, compared with the standard library."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.errors import UsageError
from plugengine.networks.addresses import format_address, format_cidr, hosts, overlap, parse_address, parse_cidr

SUBNETS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ipaddress.ip_network(pair, strict=False)
)


@given(st.integers(0, 2**32 - 1))
def test_an_address_is_the_number_the_standard_library_says(number: int) -> None:
    text = format_address(number)
    assert text == str(ipaddress.IPv4Address(number))
    assert parse_address(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "01.2.3.4", "1.2.3.4 ", "a.b.c.d", "1..3.4", "٣.2.3.4", "::1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an IPv4 address"):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/a", "10.0.0/8", "/8"]
)
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cidr(text)


@given(SUBNETS)
def test_a_subnet_is_what_the_standard_library_says(subnet: ipaddress.IPv4Network) -> None:
    parsed = parse_cidr(str(subnet))
    assert parsed == (int(subnet.network_address), subnet.prefixlen)
    assert format_cidr(*parsed) == str(subnet)
    if subnet.prefixlen <= 30:
        assert hosts(parsed) == (int(subnet.network_address) + 1, int(subnet.broadcast_address) - 1)


@given(SUBNETS, SUBNETS)
def test_subnets_overlap_as_the_standard_library_says(one: ipaddress.IPv4Network, other: ipaddress.IPv4Network) -> None:
    assert overlap(parse_cidr(str(one)), parse_cidr(str(other))) == one.overlaps(other)


def test_host_bits_of_a_subnet_are_cut_off() -> None:
    assert parse_cidr("10.88.3.7/16") == parse_cidr("10.88.0.0/16")
