"""Subnets of networks and leases of addresses."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from plugengine.errors import ConflictError, NotFoundError, UsageError
from plugengine.model import HostPath, Network
from plugengine.networks import ipam
from plugengine.state.state import State
from tests.conftest import need_root


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(HostPath(str(tmp_path)))


def network(state: State, name: str = "bridge") -> Network:
    return ipam.ensure_network(state, name, "bridge", wants_addresses=True)


def tiny(state: State) -> Network:
    """Return the network as if it had been made with five addresses for containers."""
    network(state)
    return Network(name="bridge", driver="bridge", subnet="10.9.8.0/29", gateway="10.9.8.1")


def test_a_network_is_made_once(state: State) -> None:
    first = network(state)
    assert (first.subnet, first.gateway) == ("10.88.0.0/16", "10.88.0.1")
    assert network(state) == first
    assert ipam.get_network(state, "bridge").network == first
    assert [row.network for row in ipam.list_networks(state)] == [first]


def test_networks_and_routes_of_the_host_are_avoided(state: State) -> None:
    host = ("10.88.5.0/24", "10.89.0.0/15", "192.0.2.0/24")
    first = ipam.ensure_network(state, "one", "bridge", wants_addresses=True, host_subnets=host)
    second = ipam.ensure_network(state, "two", "bridge", wants_addresses=True, host_subnets=host)
    # 10.89.0.0/15 is 10.88 and 10.89.
    assert (first.subnet, second.subnet) == ("10.90.0.0/16", "10.91.0.0/16")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (("10.0.0.0/8",), "172.16.0.0/16"),
        (("10.0.0.0/8", "172.16.0.0/12"), "192.168.0.0/24"),
        (("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/17"), "192.168.128.0/24"),
    ],
)
def test_the_next_private_pool_follows(state: State, host: tuple[str, ...], expected: str) -> None:
    found = ipam.ensure_network(state, "n1", "bridge", wants_addresses=True, host_subnets=host)
    assert found.subnet == expected


def test_without_any_free_subnet_there_is_an_error(state: State) -> None:
    with pytest.raises(ConflictError, match="no private subnet"):
        ipam.ensure_network(state, "n1", "bridge", wants_addresses=True, host_subnets=("0.0.0.0/0",))
    assert ipam.list_networks(state) == []


def test_a_driver_without_addresses_gets_no_subnet_and_nothing_to_lease(state: State) -> None:
    none = ipam.ensure_network(state, "none", "none", wants_addresses=False)
    assert (none.subnet, none.gateway) == (None, None)
    with pytest.raises(UsageError, match="no subnet"):
        ipam.lease(state, none, "c1")


def test_a_name_belongs_to_one_driver(state: State) -> None:
    network(state, "shared")
    with pytest.raises(ConflictError, match="belongs to driver bridge, not to none"):
        ipam.ensure_network(state, "shared", "none", wants_addresses=False)


def test_the_drivers_record_is_kept_until_it_is_cleared(state: State) -> None:
    network(state)
    assert ipam.get_network(state, "bridge").record is None
    ipam.store_record(state, "bridge", {"link": "pe0", "index": 4})
    assert ipam.get_network(state, "bridge").record == {"link": "pe0", "index": 4}
    ipam.store_record(state, "bridge", None)
    assert ipam.get_network(state, "bridge").record is None


def test_a_network_with_leases_cannot_be_removed(state: State) -> None:
    ipam.lease(state, network(state), "c1")
    with pytest.raises(ConflictError, match="in use by container c1"):
        ipam.remove_network(state, "bridge")
    ipam.release(state, "c1")
    ipam.remove_network(state, "bridge")
    ipam.remove_network(state, "bridge")
    with pytest.raises(NotFoundError):
        ipam.get_network(state, "bridge")


def test_leases_begin_behind_the_gateway_and_never_repeat(state: State) -> None:
    bridge = network(state)
    found = [ipam.lease(state, bridge, f"c{number}") for number in range(300)]
    assert found[:2] == ["10.88.0.2/16", "10.88.0.3/16"]
    assert len(set(found)) == 300
    assert ipam.leases(state, "bridge")["10.88.0.2"] == "c0"


def test_a_released_address_is_not_given_away_at_once(state: State) -> None:
    bridge = network(state)
    first = ipam.lease(state, bridge, "c1")
    ipam.release(state, "c1")
    assert ipam.lease(state, bridge, "c2") != first


def test_a_container_keeps_its_lease(state: State) -> None:
    bridge = network(state)
    assert ipam.lease(state, bridge, "c1") == ipam.lease(state, bridge, "c1")
    assert ipam.lease(state, bridge, "c1", "10.88.0.2") == "10.88.0.2/16"
    assert len(ipam.leases(state, "bridge")) == 1


def test_a_small_subnet_is_used_up_around_its_end_and_then_exhausted(state: State) -> None:
    small = tiny(state)
    found = [ipam.lease(state, small, f"c{number}") for number in range(5)]
    assert found == [f"10.9.8.{number}/29" for number in (2, 3, 4, 5, 6)]
    with pytest.raises(ConflictError, match=r"all 5 addresses of 10\.9\.8\.0/29 are in use"):
        ipam.lease(state, small, "late")
    ipam.release(state, "c1")
    assert ipam.lease(state, small, "late") == "10.9.8.3/29"


def test_a_wanted_address_is_given(state: State) -> None:
    bridge = network(state)
    assert ipam.lease(state, bridge, "c1", "10.88.7.7") == "10.88.7.7/16"
    assert ipam.lease(state, bridge, "c2") == "10.88.0.2/16"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("10.88.7.7", "in use by container c1"),
        ("10.88.0.1", "is the gateway"),
        ("10.88.0.0", "not one of network"),
        ("10.88.255.255", "not one of network"),
        ("10.89.0.1", "not one of network"),
    ],
)
def test_a_wanted_address_that_cannot_be_had_says_why(state: State, wanted: str, reason: str) -> None:
    bridge = network(state)
    ipam.lease(state, bridge, "c1", "10.88.7.7")
    with pytest.raises(ConflictError, match=f"address {wanted}.*{reason}"):
        ipam.lease(state, bridge, "c2", wanted)
    assert list(ipam.leases(state, "bridge").values()) == ["c1"]


def test_a_wanted_address_that_is_none_is_a_usage_error(state: State) -> None:
    with pytest.raises(UsageError, match=r"10\.88\.0"):
        ipam.lease(state, network(state), "c1", "10.88.0")


def test_a_network_that_is_gone_leases_nothing(state: State) -> None:
    bridge = network(state)
    ipam.remove_network(state, "bridge")
    with pytest.raises(NotFoundError):
        ipam.lease(state, bridge, "c1")


def test_a_release_can_be_of_one_network_only(state: State) -> None:
    one, two = network(state, "one"), network(state, "two")
    ipam.lease(state, one, "c1")
    ipam.lease(state, two, "c1")
    ipam.release(state, "c1", network="one")
    assert (len(ipam.leases(state, "one")), len(ipam.leases(state, "two"))) == (0, 1)
    ipam.release(state, "c1")
    assert len(ipam.leases(state, "two")) == 0


def test_leases_of_containers_that_do_not_exist_are_collected(state: State) -> None:
    address = ipam.lease(state, network(state), "gone").partition("/")[0]
    assert ipam.gc(state) == [f"lease {address} of container gone"]
    assert ipam.gc(state) == []


def test_a_lease_stays_quick_with_60_thousand_others(state: State) -> None:
    bridge = network(state)
    with state.transaction() as cursor:
        cursor.executemany(
            "INSERT INTO leases VALUES ('bridge', ?, ?)",
            ((f"10.88.{number >> 8}.{number & 255}", f"c{number}") for number in range(2, 60_002)),
        )
    # The worst case first: everything behind the last lease is taken.
    began = time.process_time()
    assert ipam.lease(state, bridge, "late") == f"10.88.{60_002 >> 8}.{60_002 & 255}/16"
    worst = time.process_time() - began
    began = time.process_time()
    ipam.lease(state, bridge, "later")
    usual = time.process_time() - began
    assert worst < 2
    assert usual < worst / 4


def test_the_hosts_subnets_are_those_of_its_routes() -> None:
    need_root()
    script = (
        "ip link add v0 type veth peer v1 && ip link set v0 up && ip addr add 10.88.3.4/16 dev v0 && "
        "ip route add 192.0.2.0/25 dev v0 && ip route add default dev v0 && exec cat /proc/net/route"
    )
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert set(ipam.parse_routes(done.stdout.splitlines())) == {"10.88.0.0/16", "192.0.2.0/25"}
    assert ipam.host_subnets() == ipam.parse_routes(Path("/proc/net/route").read_text().splitlines())
