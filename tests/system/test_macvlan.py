"""Containers on a macvlan network, on a link made for the test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.system.test_networks import SERVER, inspect

PARENT = "petest0"


@pytest.fixture
def lan(pe: Pe) -> Iterator[str]:
    """A macvlan network on one end of a pair of links; containers go with the test."""
    subprocess.run(["ip", "link", "add", PARENT, "type", "veth", "peer", "name", "petest1"], check=True)
    for name in (PARENT, "petest1"):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
    made = pe("network", "create", "-d", "macvlan", "--subnet", "10.204.0.0/24", "-o", f"parent={PARENT}", "lan")
    assert made.returncode == 0, made.stderr
    yield "lan"
    pe("rm", "-f", *pe("ps", "-aq", "--filter", "network=lan", check=True).stdout.split())
    pe("network", "rm", "lan", check=True)
    subprocess.run(["ip", "link", "delete", PARENT], check=True)


def test_two_containers_reach_each_other_and_the_host_holds_nothing_of_them(pe: Pe, start: Start, lan: str) -> None:
    before = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    server = start("--net", lan, "--mac-address", "02:00:00:00:00:33", *SERVER, "8000")
    settings = inspect(pe, server)
    assert settings["MacAddress"] == "02:00:00:00:00:33"
    fetch = f"import urllib.request as u; print(u.urlopen('http://{settings['IPAddress']}:8000/', timeout=5).status)"
    run = ("run", "--rm", "--net", lan, "host:python", "python3", "-c", fetch)
    assert eventually(lambda: pe(*run).stdout) == "200\n"
    assert subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout == before
    pe("stop", "-t", "0", server, check=True)
    pe("start", server, check=True)
    assert inspect(pe, server)["MacAddress"] == "02:00:00:00:00:33"


def test_ports_are_refused_with_a_sentence(pe: Pe, lan: str) -> None:
    done = pe("run", "--rm", "--net", lan, "-p", "8150:80", "host:base", "true")
    assert done.returncode == 125
    assert "--publish: network driver macvlan does not claim ports" in done.stderr


def test_without_a_parent_the_links_there_are_are_named(pe: Pe, lan: str) -> None:
    done = pe("run", "--rm", "--net", "macvlan", "host:base", "true")
    assert done.returncode == 125
    assert "macvlan needs a parent" in done.stderr
    assert PARENT in done.stderr
    near = pe("network", "create", "-d", "macvlan", "-o", "parent=petest00", "other")
    assert "did you mean petest0?" in near.stderr
    assert not {"macvlan", "other"} & set(pe("network", "ls", "-q", check=True).stdout.split())
