"""Containers on a network of CNI plugins: each other, published ports, the end, and the end of the monitor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe, need, need_tool
from tests.system.conftest import Start, eventually
from tests.system.test_networks import SERVER, get, inspect, refused

BRIDGE = "pecni0"


class Cni:
    """The network and what its plugins keep."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ipam = {"type": "host-local", "dataDir": str(directory / "ipam"), "ranges": [[{"subnet": "10.23.0.0/24"}]]}
        routes = {"routes": [{"dst": "0.0.0.0/0"}]}
        bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": True, "hairpinMode": True}
        plugins = [
            {**bridge, "ipam": {**ipam, **routes}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "firewall"},
        ]
        directory.joinpath("web.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "web", "plugins": plugins})
        )

    def leases(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("ipam/*/10.*"))

    def left(self) -> list[str]:
        """Return rules and leases that belong to a container: all but the plugins' own empty chains."""
        saved = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
        return [*self.leases(), *(line for line in saved.splitlines() if "10.23.0." in line or 'name: "web"' in line)]


@pytest.fixture
def cni(pe: Pe, tmp_path: Path) -> Iterator[Cni]:
    """A network `web` of the driver cni; containers, bridge and chains go with the test."""
    need_tool("iptables")
    need(
        None if os.path.exists("/usr/lib/cni/bridge") or os.path.exists("/opt/cni/bin/bridge") else "needs CNI plugins"
    )
    made = Cni(tmp_path)
    pe("network", "create", "-d", "cni", "-o", f"dir={tmp_path}", "web", check=True)
    yield made
    pe("rm", "-f", *pe("ps", "-aq", "--filter", "network=web", check=True).stdout.split())
    pe("network", "rm", "web", check=True)
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
    for family in ("ip", "ip6"):
        for table in ("nat", "filter"):
            subprocess.run(["nft", "delete", "table", family, table], check=False, capture_output=True)
    assert made.left() == []


def test_containers_talk_and_ports_are_published_and_nothing_is_left(pe: Pe, start: Start, cni: Cni) -> None:
    server = start("--net", "web", "-p", "8140:8000", *SERVER, "8000")
    settings = inspect(pe, server)
    assert settings["IPAddress"] == "10.23.0.2"
    assert settings["Gateway"] == "10.23.0.1"
    assert "Directory listing" in get("http://127.0.0.1:8140/")
    fetch = "import urllib.request; print(urllib.request.urlopen('http://10.23.0.2:8000/').status)"
    assert pe("run", "--rm", "--net", "web", "host:python", "python3", "-c", fetch, check=True).stdout == "200\n"
    assert cni.leases() == ["10.23.0.2"]
    assert pe("port", server, check=True).stdout == "8000/tcp -> 0.0.0.0:8140\n"
    row = json.loads(pe("stats", "--no-stream", "--format", "json", server, check=True).stdout)
    assert not row["NetIO"].startswith("0B")
    pe("rm", "-f", server, check=True)
    assert cni.left() == []
    assert refused("127.0.0.1", 8140)


def test_what_a_killed_monitor_leaves_is_taken_back(pe: Pe, start: Start, cni: Cni) -> None:
    name = start("--net", "web", "-p", "8141:8000", *SERVER, "8000")
    get("http://127.0.0.1:8141/")
    assert cni.left()
    os.kill(int(pe("inspect", "-f", "{{.State.MonitorPid}}", name, check=True).stdout), signal.SIGKILL)
    eventually(lambda: "monitor was killed" in pe("system", "check", "--repair").stdout)
    assert cni.left() == []
    pe("start", name, check=True)
    assert "Directory listing" in get("http://127.0.0.1:8141/")


def test_repair_publishes_again_after_a_flush(pe: Pe, start: Start, cni: Cni) -> None:
    start("--net", "web", "-p", "8142:8000", *SERVER, "8000")
    get("http://127.0.0.1:8142/")
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert refused("127.0.0.1", 8142)
    pe("system", "check", "--repair", check=True)
    assert "Directory listing" in get("http://127.0.0.1:8142/")


def test_a_port_in_use_is_named_and_nothing_is_left(pe: Pe, start: Start, cni: Cni) -> None:
    start("--net", "web", "-p", "8143:8000", "host:base", "sleep", "1000")
    done = pe("run", "--rm", "--net", "web", "-p", "8143:8000", "host:base", "true")
    assert done.returncode == 125
    assert "8143" in done.stderr
    assert cni.leases() == ["10.23.0.2"]


def test_a_port_is_published_by_one_driver_only(pe: Pe, start: Start, cni: Cni) -> None:
    start("--net", "bridge", "--name", "holder", "-p", "8144:8000", "host:base", "sleep", "1000")
    done = pe("run", "--rm", "--net", "web", "-p", "8144:8000", "host:base", "true")
    assert done.returncode == 125
    assert "publish port 0.0.0.0:8144/tcp: it is published by container holder" in done.stderr
    pe("stop", "-t", "0", "holder", check=True)
    pe("run", "--rm", "--net", "web", "-p", "8144:8000", "host:base", "true", check=True)
    assert pe("start", "holder").returncode == 0


def test_a_plugins_error_reaches_the_user(pe: Pe, cni: Cni, tmp_path: Path) -> None:
    conf = tmp_path / "bad.conflist"
    plugin = {"type": "macvlan", "master": "nowhere0", "ipam": {"type": "host-local", "subnet": "10.24.0.0/24"}}
    conf.write_text(json.dumps({"cniVersion": "1.0.0", "name": "bad", "plugins": [plugin]}))
    done = pe("run", "--rm", "--net", "cni", "--net-opt", f"conf={conf}", "host:base", "true")
    assert done.returncode == 125
    assert "cni plugin macvlan: ADD" in done.stderr
    assert "nowhere0" in done.stderr or "Link not found" in done.stderr


def test_a_container_chooses_its_configuration_without_a_network_being_made(pe: Pe, cni: Cni) -> None:
    option = ("--net-opt", f"conf={cni.directory}/web.conflist")
    shown = pe("run", "--rm", "--net", "cni", *option, "host:base", "hostname", "-I", check=True).stdout
    assert "10.23.0." in shown
    assert cni.left() == []
