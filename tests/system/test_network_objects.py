"""Networks somebody makes: `pe network`, containers on them, and their repair."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

import plugengine
from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.system.test_networks import SERVER, get, inspect, refused
from tests.waiting import PATIENCE_S

SUBNET = "10.203.7.0/24"


@pytest.fixture
def lan(pe: Pe) -> Iterator[str]:
    """A bridge network with a subnet of its own; it goes with the test, and its containers before it."""
    pe("network", "create", "--subnet", SUBNET, "-o", "mtu=1400", "lan", check=True)
    yield "lan"
    pe("rm", "-f", *pe("ps", "-aq", "--filter", "network=lan", check=True).stdout.split())
    pe("network", "rm", "-f", "lan", check=True)


def test_a_container_joins_a_network_by_its_name(pe: Pe, start: Start, lan: str) -> None:
    name = start("--net", lan, "host:base", "sleep", "1000")
    settings = inspect(pe, name)
    assert settings["IPAddress"].startswith("10.203.7.")
    assert list(settings["Networks"]) == ["lan"]
    assert pe("exec", name, "cat", "/sys/class/net/eth0/mtu", check=True).stdout == "1400\n"
    shown = json.loads(pe("network", "inspect", lan, check=True).stdout)[0]
    assert shown["IPAM"]["Config"] == [{"Subnet": SUBNET, "Gateway": "10.203.7.1"}]
    assert [each["IPv4Address"] for each in shown["Containers"].values()] == [f"{settings['IPAddress']}/24"]
    assert pe("ps", "-q", "--filter", "network=lan").stdout.strip() == name[:12]


def test_inspect_shows_what_the_kernel_has_of_a_network(pe: Pe, start: Start, lan: str) -> None:
    name = start("--net", lan, "-p", "8160:8000", *SERVER, "8000")
    address = inspect(pe, name)["IPAddress"]
    get(f"http://{address}:8000/")
    live = json.loads(pe("network", "inspect", lan, check=True).stdout)[0]["Live"]
    bridge = next(link for link in live["Links"] if link["Kind"] == "bridge")
    assert (bridge["Name"], bridge["Mtu"], bridge["Addresses"]) == ("pe-lan", 1400, ["10.203.7.1/24"])
    (pair,) = [link for link in live["Links"] if link["Kind"] == "veth"]
    assert (pair["Master"], pair["State"]) == ("pe-lan", "up")
    assert {"Destination": SUBNET, "Gateway": "", "Link": "pe-lan"} in live["Routes"]
    assert (address, "pe-lan") in [(each["Address"], each["Link"]) for each in live["Neighbours"]]
    forward = [each["Text"] for each in live["Rules"] if (each["Table"], each["Chain"]) == ("plugengine", "forward")]
    assert "oifname @bridges drop" in forward
    assert "iif @guarded drop" in forward


def test_looking_at_a_network_leaves_neither_descriptors_nor_threads(pe: Pe, start: Start, lan: str) -> None:
    start("--net", lan, "host:base", "sleep", "1000")
    with plugengine.Engine(root=str(pe.root), run_root=str(pe.run_root)) as engine:
        engine.networks.live(lan)  # loads what it needs
        before = set(os.listdir("/proc/self/fd")), threading.active_count()
        found = engine.networks.live(lan)
        assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert [link.kind for link in found.links] == ["bridge", "veth"]


def test_a_network_outlives_its_containers_and_serves_the_next(pe: Pe, lan: str) -> None:
    for _ in range(2):
        pe("run", "--rm", "--net", lan, "host:base", "true", check=True)
    assert pe("network", "ls", "-q", "--filter", "name=lan", check=True).stdout.split() == ["lan"]


def test_a_network_in_use_stays_and_the_container_is_named(pe: Pe, start: Start, lan: str) -> None:
    start("--net", lan, "--name", "user", "host:base", "sleep", "1000")
    done = pe("network", "rm", lan)
    assert done.returncode == 1
    assert "in use by container user" in done.stderr
    pe("rm", "-f", "user", check=True)


def test_addresses_come_from_the_range(pe: Pe) -> None:
    pe("network", "create", "--subnet", SUBNET, "--ip-range", "10.203.7.192/30", "part", check=True)
    try:
        for last in (192, 193, 194, 195, 192):
            done = pe("run", "--rm", "--net", "part", "host:base", "hostname", "-I", check=True)
            assert done.stdout.split() == [f"10.203.7.{last}"]
    finally:
        pe("network", "rm", "part", check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(("-o", "mut=1400", "x1"), ("no option mut", "did you mean mtu?"), id="option"),
        pytest.param(("bridge",), ("the driver's own",), id="name of a driver"),
        pytest.param(("-d", "brige", "x1"), ("brige", "did you mean bridge?"), id="driver"),
        pytest.param(("-d", "none", "--subnet", SUBNET, "x1"), ("--subnet", "addresses"), id="no addresses"),
        pytest.param(("--subnet", SUBNET, "--gateway", "10.9.9.9", "x1"), ("10.9.9.9 is not in",), id="gateway"),
        pytest.param(("--subnet", SUBNET, "--ip-range", "10.9.9.0/24", "x1"), ("is not in",), id="range"),
        pytest.param(("--subnet", "10.203.7.0", "x1"), ("10.203.7.0",), id="no length"),
        pytest.param(("-o", "mtu=many", "x1"), ("option mtu=many: not a whole number",), id="value"),
        pytest.param(("a b",), ("not allowed",), id="name"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_kept(
    pe: Pe, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = pe("network", "ls", "-q", check=True).stdout
    done = pe("network", "create", *arguments)
    assert done.returncode in (2, 125)
    for word in words:
        assert word in done.stderr
    assert pe("network", "ls", "-q", check=True).stdout == before


def test_names_and_subnets_are_given_once(pe: Pe, lan: str) -> None:
    again = pe("network", "create", lan)
    assert again.returncode == 125
    assert "already" in again.stderr
    inside = pe("network", "create", "--subnet", "10.203.7.128/25", "inside")
    assert inside.returncode == 125
    assert "overlaps 10.203.7.0/24 of lan" in inside.stderr


def test_a_network_that_is_not_there_is_said_with_the_near_miss(pe: Pe, lan: str) -> None:
    done = pe("run", "--rm", "--net", "lam", "host:base", "true")
    assert done.returncode == 125
    assert "network lam: neither a network nor an installed driver" in done.stderr
    assert "did you mean lan?" in done.stderr


def test_a_stopped_container_whose_network_is_gone_says_so(pe: Pe, start: Start) -> None:
    pe("network", "create", "gone", check=True)
    name = start("--net", "gone", "host:base", "sleep", "1000")
    pe("stop", "-t", "0", name, check=True)
    pe("network", "rm", "gone", check=True)
    done = pe("start", name)
    assert done.returncode != 0
    assert "network gone: no such network" in done.stderr


def test_a_driver_without_addresses_has_networks_too(pe: Pe) -> None:
    pe("network", "create", "-d", "none", "quiet", check=True)
    assert pe("run", "--rm", "--net", "quiet", "host:base", "sh", "-c", "ip -o link | wc -l").stdout == "1\n"
    pe("network", "rm", "quiet", check=True)


def test_repair_brings_rules_and_published_ports_back_after_a_flush(pe: Pe, start: Start) -> None:
    start("-p", "8120:8000", "--name", "flushed", *SERVER, "8000")
    get("http://127.0.0.1:8120/")
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert refused("127.0.0.1", 8120)
    assert pe("system", "check", "--repair", check=True).returncode == 0
    assert "Directory listing" in get("http://127.0.0.1:8120/")
    repaired = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert sorted(repaired.splitlines()) == sorted(rules.splitlines())


def test_repair_does_not_cut_connections_that_work(pe: Pe, start: Start) -> None:
    import socket

    echo = """
import socket
server = socket.create_server(("", 7))
print("up", flush=True)
client = server.accept()[0]
while data := client.recv(99):
    client.sendall(data)
"""
    name = start("-p", "8121:7", "host:python", "python3", "-c", echo)
    eventually(lambda: pe("logs", name).stdout == "up\n")
    with socket.create_connection(("127.0.0.1", 8121), timeout=PATIENCE_S) as client:
        for _ in range(2):
            client.sendall(b"abc")
            assert client.recv(9) == b"abc"
            pe("system", "check", "--repair", check=True)
