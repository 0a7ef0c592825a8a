"""Leases of the host's ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from plugengine.errors import ConflictError, UsageError
from plugengine.model import HostPath, Port
from plugengine.networks import ports
from plugengine.state.state import State
from plugengine.testing.children import all_at_once

LOOPBACK = "127.0.0.1"
PORT = 18000


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(HostPath(str(tmp_path)))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port a program of this host listens on."""
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        yield server.getsockname()[1]


def port(number: int, *, on: str = "", protocol: str = "tcp", last: int = 0) -> Port:
    return Port(host_ip=on, host_port=number, guest_port=80, protocol=protocol, host_port_last=last)


def numbers(leased: tuple[Port, ...]) -> list[int]:
    return [each.host_port for each in leased]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("", "", id="everywhere twice"),
        pytest.param("", "0.0.0.0", id="everywhere and every IPv4 address"),
        pytest.param("", "::", id="everywhere and every IPv6 address"),
        pytest.param("", LOOPBACK, id="everywhere and one address"),
        pytest.param("", "::1", id="everywhere and one IPv6 address"),
        pytest.param("0.0.0.0", LOOPBACK, id="every IPv4 address and one"),
        pytest.param("::", "::1", id="every IPv6 address and one"),
        pytest.param("::1", "0:0:0:0:0:0:0:1", id="one address written in two ways"),
    ],
)
def test_addresses_that_stand_for_one_another_conflict_in_both_orders(state: State, one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        ports.lease(state, "a", [port(PORT, on=first)])
        with pytest.raises(ConflictError, match=f":{PORT}/tcp: it is published by container a"):
            ports.lease(state, "b", [port(PORT, on=second)])
        ports.release(state, "a")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(port(PORT), port(PORT + 1), id="numbers"),
        pytest.param(port(PORT), port(PORT, protocol="udp"), id="protocols"),
        pytest.param(port(PORT, on=LOOPBACK), port(PORT, on="127.0.0.2"), id="addresses"),
        pytest.param(port(PORT, on="0.0.0.0"), port(PORT, on="::"), id="families"),
        pytest.param(port(PORT, on=LOOPBACK), port(PORT, on="::"), id="an address and the other family"),
    ],
)
def test_what_differs_is_leased_to_both(state: State, one: Port, other: Port) -> None:
    assert ports.lease(state, "a", [one]) == (one,)
    assert ports.lease(state, "b", [other]) == (other,)


def test_a_port_is_free_again_after_its_release_and_a_second_release_is_none(state: State) -> None:
    ports.lease(state, "a", [port(PORT)])
    for _ in range(2):
        ports.release(state, "a")
    assert numbers(ports.lease(state, "b", [port(PORT)])) == [PORT]


def test_who_leases_again_has_only_the_new_ports(state: State) -> None:
    ports.lease(state, "a", [port(PORT), port(PORT + 1)])
    ports.lease(state, "a", [port(PORT + 1)])
    assert numbers(ports.lease(state, "b", [port(PORT)])) == [PORT]


def test_a_refused_lease_keeps_nothing(state: State) -> None:
    ports.lease(state, "a", [port(PORT)])
    with pytest.raises(ConflictError):
        ports.lease(state, "b", [port(PORT + 1), port(PORT)])
    assert numbers(ports.lease(state, "c", [port(PORT + 1)])) == [PORT + 1]


def test_one_container_cannot_have_a_port_twice(state: State) -> None:
    with pytest.raises(ConflictError, match="by the same container"):
        ports.lease(state, "a", [port(PORT), port(PORT, on=LOOPBACK)])


def test_the_first_free_port_of_a_range_is_leased(state: State) -> None:
    wanted = [port(PORT, last=PORT + 2)]
    assert [numbers(ports.lease(state, name, wanted)) for name in "abc"] == [[PORT], [PORT + 1], [PORT + 2]]
    with pytest.raises(ConflictError, match=f"none of the host's ports {PORT} to {PORT + 2} is free"):
        ports.lease(state, "d", wanted)
    ports.release(state, "b")
    assert numbers(ports.lease(state, "d", wanted)) == [PORT + 1]


def test_fixed_ports_come_before_ranges_and_the_order_stays(state: State) -> None:
    leased = ports.lease(state, "a", [port(0), port(PORT, last=PORT + 1), port(PORT)])
    assert numbers(leased)[1:] == [PORT + 1, PORT]
    assert all(each.host_port_last == 0 for each in leased)


def test_a_program_of_the_host_keeps_its_port(state: State, taken: int) -> None:
    with pytest.raises(ConflictError, match=f"{taken}/tcp: a program on this host is using it"):
        ports.lease(state, "a", [port(taken)])
    assert numbers(ports.lease(state, "a", [port(taken, last=taken + 9)]))[0] > taken


def test_what_somebody_else_has_is_not_chosen(state: State) -> None:
    wanted = [port(PORT, last=PORT + 2)]
    avoid = list(ports.lease(state, "a", wanted))
    avoid += ports.lease(state, "a", wanted, avoid)
    assert numbers(ports.lease(state, "a", wanted, avoid)) == [PORT + 2]


def test_an_address_of_another_machine_is_refused(state: State) -> None:
    for number in (0, PORT):
        with pytest.raises(ConflictError, match="cannot assign requested address"):
            ports.lease(state, "a", [port(number, on="203.0.113.77")])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(port(PORT, on="localhost"), id="a name"),
        pytest.param(port(PORT, on="127.0.0.1\0"), id="a NUL"),
        pytest.param(port(PORT, protocol="icmp"), id="a protocol without ports"),
        pytest.param(port(70_000), id="a number too large"),
        pytest.param(port(PORT, last=70_000), id="a range too large"),
        pytest.param(port(PORT, last=PORT - 1), id="a range backwards"),
    ],
)
def test_what_is_no_port_is_refused(state: State, wrong: Port) -> None:
    with pytest.raises(UsageError):
        ports.lease(state, "a", [wrong])


def test_of_many_at_once_each_gets_a_port_of_its_own(tmp_path: Path) -> None:
    def one(name: str) -> list[int]:
        return numbers(ports.lease(State(HostPath(str(tmp_path))), name, [port(PORT, last=PORT + 15), port(0)]))

    found = all_at_once([partial(one, name) for name in "abcdefghijklmnop"])
    assert sorted(first for first, _ in found) == list(range(PORT, PORT + 16))
    assert len({second for _, second in found}) == 16
