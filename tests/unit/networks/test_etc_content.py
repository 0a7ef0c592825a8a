"""The three files of /etc."""

from __future__ import annotations

import pytest

from plugengine.errors import UsageError
from plugengine.networks.etc_content import contents, hostname_file, hosts, names_only_stub, parse_host, resolv_conf
from plugengine.spec import ContainerSpec

HOST = """# made by hand
domain old.example
search corp.example lab.example
nameserver 127.0.0.53
nameserver 192.0.2.1 # first
nameserver ::1
nameserver 2001:db8::53
nameserver fe80::1%eth0
nameserver not-an-address
options ndots:2
options edns0 trust-ad
"""


def test_hosts_hold_the_loopback_the_callers_and_the_container() -> None:
    text = hosts(
        "web", domainname="example.org", addresses=("10.88.0.2",), extra_hosts=("db:10.0.0.7", "six:[2001:db8::7]")
    )
    assert text.splitlines()[0] == "127.0.0.1\tlocalhost"
    assert text.splitlines()[-3:] == ["10.0.0.7\tdb", "2001:db8::7\tsix", "10.88.0.2\tweb.example.org web"]


def test_hosts_in_the_hosts_network_are_the_hosts_own() -> None:
    assert hosts("web", base="127.0.0.1 localhost", extra_hosts=("a:1.2.3.4",)) == "127.0.0.1 localhost\n1.2.3.4\ta\n"
    assert hosts("web", base="") == ""


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("db:10.0.0.7", ("db", "10.0.0.7")),
        ("db=10.0.0.7", ("db", "10.0.0.7")),
        ("db:2001:db8::7", ("db", "2001:db8::7")),
        ("db=2001:db8::7", ("db", "2001:db8::7")),
        ("db:[::1]", ("db", "::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "10.88.0.1")),
    ],
)
def test_an_added_host_is_a_name_and_an_address(entry: str, expected: tuple[str, str]) -> None:
    assert parse_host(entry, gateway="10.88.0.1") == expected


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "db",
        "db:",
        ":10.0.0.1",
        "db:nonsense",
        "db:10.0.0.1\n6.6.6.6 bank",
        "a b:10.0.0.1",
        "x\ty:10.0.0.1",
        "db:10.0.0.1 x",
    ],
)
def test_an_added_host_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="--add-host"):
        parse_host(entry, gateway="10.88.0.1")


def test_host_gateway_without_a_gateway_is_refused() -> None:
    with pytest.raises(UsageError, match="no gateway to the host"):
        parse_host("h:host-gateway")


def test_hostname_holds_the_full_name() -> None:
    assert hostname_file("web") == "web\n"
    assert hostname_file("web", domainname="example.org") == "web.example.org\n"


def test_resolvers_on_the_hosts_loopback_are_left_out() -> None:
    assert resolv_conf(HOST).splitlines() == [
        "nameserver 192.0.2.1",
        "nameserver 2001:db8::53",
        "nameserver fe80::1%eth0",
        "search corp.example lab.example",
        "options ndots:2 edns0 trust-ad",
    ]


def test_where_no_resolver_is_left_public_ones_stand_in() -> None:
    assert resolv_conf("nameserver 127.0.0.1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert resolv_conf("") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_in_the_hosts_network_its_loopback_resolvers_stay() -> None:
    assert resolv_conf("nameserver 127.0.0.53\n", keep_loopback=True) == "nameserver 127.0.0.53\n"
    assert resolv_conf("", keep_loopback=True) == ""


def test_what_the_caller_gives_replaces_the_hosts() -> None:
    text = resolv_conf(HOST, dns=("10.0.0.1", "127.0.0.1"), search=("a.example",), options=("ndots:5",))
    assert text == "nameserver 10.0.0.1\nnameserver 127.0.0.1\nsearch a.example\noptions ndots:5\n"


def test_a_single_dot_means_no_search_domain() -> None:
    assert "search" not in resolv_conf(HOST, search=(".",))


@pytest.mark.parametrize(
    "options",
    [
        {"dns": ("example.org",)},
        {"dns": ("1.2.3.4\n",)},
        {"search": ("a b",)},
        {"search": ("",)},
        {"options": ("x\ny",)},
    ],
)
def test_words_that_would_make_another_line_are_refused(options: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(UsageError):
        resolv_conf(HOST, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "only"),
    [("nameserver 127.0.0.53\n", True), ("nameserver 127.0.0.53\nnameserver 10.0.0.1\n", False), ("", False)],
)
def test_a_stub_resolver_is_recognised(content: str, only: bool) -> None:
    assert names_only_stub(content) is only


def test_all_three_come_together_by_name() -> None:
    spec = ContainerSpec(image="x", dns=("10.0.0.1",), extra_hosts=("gw:host-gateway",))
    files = contents(spec, hostname="web", addresses=("10.88.0.2",), gateway="10.88.0.1")
    assert set(files) == {"hosts", "hostname", "resolv.conf"}
    assert files["hosts"].endswith(b"10.88.0.1\tgw\n10.88.0.2\tweb\n")
    assert files["resolv.conf"].startswith(b"nameserver 10.0.0.1\n")
    assert files["hostname"] == b"web\n"


def test_in_the_hosts_network_the_host_is_its_loopback() -> None:
    spec = ContainerSpec(image="x", extra_hosts=("gw:host-gateway",))
    assert b"127.0.0.1\tgw\n" in contents(spec, hostname="web", host_network=True)["hosts"]
