"""Networks: who reaches whom, published ports, addresses, names; in the test run's own network namespace."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")
RUN = ("run", "--rm")
SERVER = ("host:python", "python3", "-m", "http.server")


def inspect(pe: Pe, name: str) -> dict[str, Any]:
    """Return a container's network settings."""
    found: dict[str, Any] = json.loads(pe("inspect", name, check=True).stdout)[0]["NetworkSettings"]
    return found


_ATTEMPT_S = 10.0  # of one that is made again


def get(url: str) -> str:
    """Fetch a page, waiting until the server is up."""

    def attempt() -> str:
        try:
            with urllib.request.urlopen(url, timeout=_ATTEMPT_S) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    return eventually(attempt)


def refused(address: str, port: int) -> bool:
    """Tell whether nobody answers at an address."""
    try:
        socket.create_connection((address, port), timeout=_ATTEMPT_S).close()
    except OSError:
        return True
    return False


# --- none and host -----------------------------------------------------------------------------------------


def test_none_has_a_loopback_that_works_and_nothing_else(pe: Pe) -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 80)); socket.create_connection(s.getsockname())"
    pe(*RUN, *NONE, "host:python", "python3", "-c", script, check=True)
    assert (
        pe(*RUN, *NONE, "host:base", "sh", "-c", "ip -o link | wc -l; ip route | wc -l", check=True).stdout == "1\n0\n"
    )


def test_host_is_the_hosts_network(pe: Pe, start: Start) -> None:
    start("--net", "host", *SERVER, "--bind", "127.0.0.1", "8099")
    assert "Directory listing" in get("http://127.0.0.1:8099/")


def test_publishing_a_port_without_a_network_of_ones_own_is_refused(pe: Pe) -> None:
    done = pe(*RUN, *NONE, "-p", "8080:80", "host:base", "true")
    assert done.returncode == 125
    assert "none" in done.stderr


# --- bridge ------------------------------------------------------------------------------------------------


def test_two_containers_reach_each_other_by_address(pe: Pe, start: Start) -> None:
    server = start(*SERVER, "8000")
    address = inspect(pe, server)["IPAddress"]
    assert address
    eventually(lambda: not refused(address, 8000))
    fetch = f"import urllib.request; print(urllib.request.urlopen('http://{address}:8000/').status)"
    assert pe(*RUN, "host:python", "python3", "-c", fetch, check=True).stdout == "200\n"


def test_a_container_reaches_the_host_at_its_gateway(pe: Pe) -> None:
    with socket.create_server(("0.0.0.0", 8101)) as server:
        server.settimeout(PATIENCE_S)
        talk = "gateway=$(ip route | awk '/default/ {print $3}'); exec 3<> /dev/tcp/$gateway/8101; echo hi >&3"
        pe(*RUN, "host:base", "bash", "-c", talk, check=True)
        connection, peer = server.accept()
        with connection:
            assert connection.recv(10) == b"hi\n"
        assert peer[0].startswith("10."), "the container's own address, not translated"


@pytest.mark.parametrize("host", ["127.0.0.1", "the host's address"])
def test_a_published_port_answers(pe: Pe, start: Start, host: str) -> None:
    start("-p", "8102:8000", "--name", "web", *SERVER, "8000")
    address = host if host[0].isdigit() else inspect(pe, "web")["Gateway"]
    assert "Directory listing" in get(f"http://{address}:8102/")
    assert pe("port", "web", check=True).stdout == "8000/tcp -> 0.0.0.0:8102\n"
    assert "0.0.0.0:8102->8000/tcp" in pe("ps").stdout
    pe("rm", "-f", "web", check=True)
    assert refused("127.0.0.1", 8102)


def test_a_published_port_is_reached_from_another_container_and_from_its_own(pe: Pe, start: Start) -> None:
    name = start("-p", "8103:8000", *SERVER, "8000")
    gateway = inspect(pe, name)["Gateway"]
    get("http://127.0.0.1:8103/")
    fetch = f"import urllib.request; print(urllib.request.urlopen('http://{gateway}:8103/', timeout=5).status)"
    assert pe(*RUN, "host:python", "python3", "-c", fetch, check=True).stdout == "200\n"
    assert pe("exec", name, "python3", "-c", fetch, check=True).stdout == "200\n"


def test_a_port_published_on_one_address_is_closed_on_the_others(pe: Pe, start: Start) -> None:
    name = start("-p", "127.0.0.1:8104:8000", *SERVER, "8000")
    get("http://127.0.0.1:8104/")
    assert refused(inspect(pe, name)["Gateway"], 8104)


def test_a_free_port_is_found(pe: Pe, start: Start) -> None:
    start("-p", "8000", "--name", "free", *SERVER, "8000")
    port = re.fullmatch(r"8000/tcp -> 0\.0\.0\.0:(\d+)\n", pe("port", "free", check=True).stdout)
    assert port
    assert "Directory listing" in get(f"http://127.0.0.1:{port[1]}/")


def test_a_range_and_udp_are_published(pe: Pe, start: Start) -> None:
    echo = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 53))
print("up", flush=True)
while True:
    data, peer = server.recvfrom(99)
    server.sendto(data[::-1], peer)
"""
    name = start("-p", "8110-8112:7000-7002", "-p", "8113:53/udp", "host:python", "python3", "-c", echo)
    assert pe("port", name, "53/udp", check=True).stdout == "0.0.0.0:8113\n"
    assert pe("port", name, check=True).stdout.count("/tcp ->") == 3
    eventually(lambda: pe("logs", name).stdout == "up\n")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.sendto(b"abc", ("127.0.0.1", 8113))
        assert client.recvfrom(99)[0] == b"cba"


def test_a_port_in_use_is_named_and_nothing_is_left(pe: Pe, start: Start) -> None:
    start("-p", "8105:8000", "--name", "first", "host:base", "sleep", "1000")
    done = pe(*RUN, "-p", "8105:8000", "host:base", "true")
    assert done.returncode == 125
    assert "8105" in done.stderr
    with socket.create_server(("0.0.0.0", 8106)):
        done = pe(*RUN, "-p", "8106:8000", "host:base", "true")
        assert done.returncode == 125
        assert "8106" in done.stderr


def test_the_first_free_port_of_a_range_is_published(pe: Pe, start: Start) -> None:
    ranged = ("-p", "127.0.0.1:8120-8122:80", "host:base", "sleep", "1000")
    with socket.create_server(("127.0.0.1", 8121)):
        names = [start(*ranged) for _ in range(2)]
        found = [pe("port", name, check=True).stdout for name in names]
        assert found == ["80/tcp -> 127.0.0.1:8120\n", "80/tcp -> 127.0.0.1:8122\n"]
        done = pe(*RUN, *ranged)
        assert done.returncode == 125
        assert "80/tcp: none of the host's ports 8120 to 8122 is free" in done.stderr
    pe("stop", "-t", "0", names[0], check=True)
    assert pe("port", start(*ranged), check=True).stdout == "80/tcp -> 127.0.0.1:8120\n"
    done = pe("start", names[0])
    assert done.returncode == 0, done.stderr
    assert pe("port", names[0], check=True).stdout == "80/tcp -> 127.0.0.1:8121\n"


def test_a_port_another_engine_has_is_passed_over(pe: Pe, start: Start, tmp_path: Path) -> None:
    other = Pe(tmp_path / "root", tmp_path / "run")
    other("run", "-d", "-p", "8125:80", "host:base", "sleep", "1000", check=True)
    try:
        name = start("-p", "8125-8126:80", "host:base", "sleep", "1000")
        assert pe("port", name, check=True).stdout == "80/tcp -> 0.0.0.0:8126\n"
        assert "8125" in pe(*RUN, "-p", "8125:80", "host:base", "true").stderr
    finally:
        other.clean()


def test_a_port_is_free_after_its_container_was_killed_with_its_monitor(pe: Pe, start: Start) -> None:
    name = start("-p", "8127:80", "host:base", "sleep", "1000")
    state = json.loads(pe("inspect", name, check=True).stdout)[0]["State"]
    os.kill(state["MonitorPid"], signal.SIGKILL)
    assert pe("port", start("-p", "8127:80", "host:base", "sleep", "1000"), check=True).stdout


def test_every_container_has_an_address_of_its_own(pe: Pe, start: Start) -> None:
    names = [start("host:base", "sleep", "1000") for _ in range(4)]
    assert len({inspect(pe, name)["IPAddress"] for name in names}) == 4
    assert len({inspect(pe, name)["MacAddress"] for name in names}) == 4


def test_an_address_and_a_mac_can_be_chosen(pe: Pe, start: Start) -> None:
    name = start("--ip", "10.88.7.7", "--mac-address", "02:00:00:00:00:07", "host:base", "sleep", "1000")
    text = pe("exec", name, "ip", "address", check=True).stdout
    assert "10.88.7.7/16" in text
    assert "02:00:00:00:00:07" in text
    taken = pe(*RUN, "--ip", "10.88.7.7", "host:base", "true")
    assert taken.returncode == 125
    assert "10.88.7.7" in taken.stderr
    outside = pe(*RUN, "--ip", "192.0.2.7", "host:base", "true")
    assert outside.returncode == 125
    assert "192.0.2.7" in outside.stderr


def test_an_address_is_free_again_after_stop_and_the_next_start_works(pe: Pe, start: Start) -> None:
    first = start("--ip", "10.88.9.9", "host:base", "sleep", "1000")
    pe("stop", "-t", "0", first, check=True)
    second = start("--ip", "10.88.9.9", "host:base", "sleep", "1000")
    pe("rm", "-f", second, check=True)
    pe("start", first, check=True)
    assert inspect(pe, first)["IPAddress"] == "10.88.9.9"


def test_stats_count_what_goes_through(pe: Pe, start: Start) -> None:
    name = start("-p", "8107:8000", *SERVER, "8000")
    get("http://127.0.0.1:8107/")
    row = json.loads(pe("stats", "--no-stream", "--format", "json", name, check=True).stdout)
    received, sent = row["NetIO"].split(" / ")
    assert not received.startswith("0B")
    assert not sent.startswith("0B")


def test_a_container_in_anothers_network_shares_its_ports(pe: Pe, start: Start) -> None:
    owner = start("-p", "8108:8000", "--name", "owner", "host:base", "sleep", "1000")
    start("--net", "container:owner", *SERVER, "8000")
    assert "Directory listing" in get("http://127.0.0.1:8108/")
    hosts = pe(*RUN, "--net", "container:owner", "host:base", "cat", "/etc/hosts", check=True).stdout
    assert hosts == pe("exec", owner, "cat", "/etc/hosts", check=True).stdout


def test_a_link_option_of_the_driver_is_passed_on(pe: Pe) -> None:
    done = pe(*RUN, "--net-opt", "mtu=1400", "host:base", "cat", "/sys/class/net/eth0/mtu", check=True)
    assert done.stdout == "1400\n"
    unknown = pe(*RUN, "--net-opt", "mut=1400", "host:base", "true")
    assert unknown.returncode == 125
    assert "mut" in unknown.stderr


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def test_the_last_container_takes_bridge_and_rules_along(pe: Pe, start: Start) -> None:
    name = start("-p", "8109:80", "host:base", "sleep", "1000")
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert len(links.splitlines()) >= 3
    assert "8109" in rules()
    pe("rm", "-f", name, check=True)
    eventually(lambda: "8109" not in rules())


def test_an_option_of_the_whole_network_is_refused_for_one_container(pe: Pe) -> None:
    done = pe(*RUN, "--net-opt", "internal=true", "host:base", "true")
    assert done.returncode == 125
    assert "internal" in done.stderr
