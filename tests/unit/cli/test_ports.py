from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.parse.errors import FlagError
from plugengine.cli.parse.ports import (
    check_address,
    parse_add_host,
    parse_expose,
    parse_hostname,
    parse_mac,
    parse_publish,
    with_exposed,
)
from plugengine.model import Port


def port(host_port: int, guest_port: int, host_ip: str = "", protocol: str = "tcp") -> Port:
    return Port(host_ip=host_ip, host_port=host_port, guest_port=guest_port, protocol=protocol)


def any_of(first: int, last: int, guest_port: int, host_ip: str = "", protocol: str = "tcp") -> Port:
    return msgspec.structs.replace(port(first, guest_port, host_ip, protocol), host_port_last=last)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        pytest.param("80", (port(0, 80),), id="container port alone takes a free one"),
        pytest.param("8080:80", (port(8080, 80),), id="host and container"),
        pytest.param("0:80", (port(0, 80),), id="host port 0 is a free one"),
        pytest.param(":80", (port(0, 80),), id="empty host port"),
        pytest.param("127.0.0.1:8080:80", (port(8080, 80, "127.0.0.1"),), id="address"),
        pytest.param("127.0.0.1::80", (port(0, 80, "127.0.0.1"),), id="address and a free port"),
        pytest.param("53:53/udp", (port(53, 53, protocol="udp"),), id="udp"),
        pytest.param("9:9/SCTP", (port(9, 9, protocol="sctp"),), id="sctp, in capitals"),
        pytest.param("8000-8002:80-82", (port(8000, 80), port(8001, 81), port(8002, 82)), id="ranges"),
        pytest.param("8000-8002:80", (any_of(8000, 8002, 80),), id="any of a range"),
        pytest.param(
            "127.0.0.1:8000-8002:80/udp", (any_of(8000, 8002, 80, "127.0.0.1", "udp"),), id="any of a range, in full"
        ),
        pytest.param("8000-8000:80", (port(8000, 80),), id="a range of one"),
        pytest.param("80-81", (port(0, 80), port(0, 81)), id="container range alone"),
        pytest.param(
            "127.0.0.1:7-8:7-8/udp", (port(7, 7, "127.0.0.1", "udp"), port(8, 8, "127.0.0.1", "udp")), id="all"
        ),
    ],
)
def test_published_ports(text: str, ports: tuple[Port, ...]) -> None:
    assert parse_publish("-p", text) == ports


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "no container port", id="nothing"),
        pytest.param("8080:", "no container port", id="no container port"),
        pytest.param("http:80", "host port http is not a number", id="a word"),
        pytest.param("8080:http", "container port http is not a number", id="another word"),
        pytest.param("70000:80", "not between 0 and 65535", id="host port too large"),
        pytest.param("80:70000", "not between 1 and 65535", id="container port too large"),
        pytest.param("80:0", "not between 1 and 65535", id="container port 0"),
        pytest.param("80:80/icmp", "icmp is no protocol", id="unknown protocol"),
        pytest.param("80:80/", "nothing is no protocol", id="empty protocol"),
        pytest.param("8000-8010:80-81", "11 host ports for 2", id="ranges of different length"),
        pytest.param("8010-8000:80-90", "run backwards", id="backwards"),
        pytest.param("[::1]:8080:80", "IPv6 addresses are not supported", id="IPv6"),
        pytest.param("::1:8080:80", "IPv6 addresses are not supported", id="IPv6 without brackets"),
        pytest.param("localhost:8080:80", "localhost is not an IPv4 address", id="a name"),
        pytest.param("300.0.0.1:8080:80", "not an IPv4 address", id="an octet too large"),
        pytest.param("010.0.0.1:8080:80", "not an IPv4 address", id="an octet that may be octal"),
        pytest.param("80:-1", "no container port", id="negative"),
        pytest.param("٣:80", "is not a number", id="digits of another alphabet"),
    ],
)
def test_what_is_no_port_says_why(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why) as caught:
        parse_publish("--publish", text)
    assert caught.value.message.startswith("--publish ")


@given(host=st.integers(0, 65_535), guest=st.integers(1, 65_535), protocol=st.sampled_from(["tcp", "udp", "sctp"]))
def test_every_port_can_be_published(host: int, guest: int, protocol: str) -> None:
    assert parse_publish("-p", f"{host}:{guest}/{protocol}") == (port(host, guest, protocol=protocol),)


@given(start=st.integers(1, 60_000), length=st.integers(1, 50), shift=st.integers(0, 5000))
def test_a_range_maps_one_to_one(start: int, length: int, shift: int) -> None:
    text = f"{start + shift}-{start + shift + length - 1}:{start}-{start + length - 1}"
    assert parse_publish("-p", text) == tuple(port(start + shift + index, start + index) for index in range(length))


@given(text=st.text(alphabet="0123456789:-/.[]tcpudp", max_size=30))
def test_any_text_gives_ports_or_an_error_of_ours(text: str) -> None:
    try:
        for each in parse_publish("-p", text):
            assert 1 <= each.guest_port <= 65_535
            assert 0 <= each.host_port <= 65_535
    except FlagError:
        pass


def test_exposed_ports_get_a_free_host_port_unless_they_are_published() -> None:
    exposed = [*parse_expose("--expose", "80-81"), *parse_expose("--expose", "53/udp"), (81, "tcp")]
    assert list(with_exposed([port(8080, 80)], exposed)) == [port(8080, 80), port(0, 81), port(0, 53, protocol="udp")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("db:10.0.0.7", "db:10.0.0.7"),
        ("db=10.0.0.7", "db:10.0.0.7"),
        ("db:host-gateway", "db:host-gateway"),
        ("db:::1", "db:::1"),
        ("db=[fe80::1]", "db:fe80::1"),
    ],
)
def test_a_host_and_its_address(text: str, line: str) -> None:
    assert parse_add_host("--add-host", text) == line


@pytest.mark.parametrize("text", ["db", "db:", ":10.0.0.7", "db:nowhere", "db:1.2.3", "db:zz::1", ""])
def test_a_host_without_an_address_is_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--add-host"):
        parse_add_host("--add-host", text)


def test_a_name_server_may_have_either_kind_of_address() -> None:
    assert check_address("--dns", "9.9.9.9", "9.9.9.9") == "9.9.9.9"
    assert check_address("--dns", "2620:fe::fe", "2620:fe::fe") == "2620:fe::fe"


def test_an_ethernet_address_is_six_bytes() -> None:
    assert parse_mac("--mac-address", "02-42-AC-11-00-02") == "02:42:ac:11:00:02"


@pytest.mark.parametrize("text", ["02:42", "02:42:ac:11:00:zz", "03:42:ac:11:00:02", "0242ac110002", ""])
def test_other_ethernet_addresses_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--mac-address"):
        parse_mac("--mac-address", text)


@pytest.mark.parametrize("text", ["web", "web-1.example.org", "a" * 63, "0", "with_underscore"])
def test_host_names(text: str) -> None:
    assert parse_hostname("--hostname", text) == text


@pytest.mark.parametrize("text", ["", "-web", "web-", "a" * 65, "a..b", "wéb", "we b", "a/b", "a" * 64])
def test_other_host_names_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--hostname"):
        parse_hostname("--hostname", text)
