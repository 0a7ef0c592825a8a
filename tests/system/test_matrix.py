"""Every storage driver with every network driver, as installed; and two storage drivers on one image at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pe, need_root
from tests.system.conftest import Start


@cache
def installed() -> list[dict[str, Any]]:
    """Return what `pe drivers` says, asked once when tests are collected."""
    pe = Path(sys.executable).parent / "pe"
    with tempfile.TemporaryDirectory(prefix="pe-drivers-") as base:
        roots = {"PLUGENGINE_ROOT": f"{base}/root", "PLUGENGINE_RUN_ROOT": f"{base}/run", "PLUGENGINE_WARM": "0"}
        line = [str(pe), "drivers", "--format", "json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **roots})
    return [json.loads(line) for line in done.stdout.splitlines()]


def supported(kind: str) -> list[str]:
    """Return the names of the drivers of a kind that work on this host."""
    return sorted(str(row["Name"]) for row in installed() if row["Kind"] == kind and row["Supported"] == "yes")


STORAGE = supported("storage")
NEED_CONFIGURATION = {"cni", "macvlan"}  # they have tests of their own
NETWORK = [name for name in supported("network") if name not in NEED_CONFIGURATION]


def test_the_bundled_drivers_are_there() -> None:
    need_root()  # nothing above is asked for otherwise
    assert {"overlay", "fuse_union", "vfs"} <= set(STORAGE)
    assert {"bridge", "none", "host"} <= set(NETWORK)


@pytest.mark.parametrize("network", NETWORK)
@pytest.mark.parametrize("storage", STORAGE)
def test_a_container_lives_through_its_whole_life(pe: Pe, start: Start, storage: str, network: str) -> None:
    name = start("--storage", storage, "--net", network, "host:base", "sh", "-c", "echo hello; exec sleep 1000")
    found = json.loads(pe("inspect", name, check=True).stdout)[0]
    assert (found["Drivers"]["storage"], found["Drivers"]["network"]) == (storage, network)
    assert pe("logs", name, check=True).stdout == "hello\n"
    pe("exec", name, "sh", "-c", "echo kept > /file; rm /etc/protocols; mkdir -p /a/b; ln -s b /a/link", check=True)
    pe("stop", "-t", "0", name, check=True)
    pe("start", name, check=True)
    script = "cat /file; test -e /etc/protocols || echo gone; readlink /a/link; ls /sys/class/net"
    lines = pe("exec", name, "sh", "-c", script, check=True).stdout.splitlines()
    assert lines[:3] == ["kept", "gone", "b"]
    assert "lo" in lines[3:]
    changes = pe("diff", name, check=True).stdout.splitlines()
    assert {"A /file", "D /etc/protocols", "A /a", "A /a/b", "A /a/link"} <= set(changes)


@pytest.mark.parametrize("network", NETWORK)
@pytest.mark.parametrize("storage", STORAGE)
def test_run_says_hello(pe: Pe, storage: str, network: str) -> None:
    done = pe("run", "--rm", "--storage", storage, "--net", network, "host:base", "echo", "hello", check=True)
    assert (done.stdout, done.stderr) == ("hello\n", "")


def test_control_group_and_namespace_drivers_are_chosen_by_name_too(pe: Pe, start: Start) -> None:
    for cgroup in supported("cgroup"):
        name = start("--net", "none", "--cgroup", cgroup, "--namespace", "linux", "host:base", "sleep", "1000")
        drivers = json.loads(pe("inspect", name, check=True).stdout)[0]["Drivers"]
        assert (drivers["cgroup"], drivers["namespace"]) == (cgroup, "linux")


def test_one_image_in_two_containers_with_two_storage_drivers_at_once(pe: Pe, start: Start) -> None:
    boxes = {name: start("--net", "none", "--storage", name, "host:base", "sleep", "1000") for name in STORAGE}
    for name, box in boxes.items():
        pe("exec", box, "sh", "-c", f"echo {name} > /who; echo {name} >> /etc/passwd; rm /etc/group", check=True)
    for name, box in boxes.items():
        done = pe(
            "exec", box, "sh", "-c", "cat /who; tail -n 1 /etc/passwd; test -e /etc/group || echo gone", check=True
        )
        assert done.stdout == f"{name}\n{name}\ngone\n"
    fresh = pe(
        "run", "--rm", "--net", "none", "host:base", "sh", "-c", "ls /who; cat /etc/group; tail -n 1 /etc/passwd"
    )
    assert "root:x:0:" in fresh.stdout
    assert not [name for name in STORAGE if name in fresh.stdout]
    assert "/who" not in fresh.stdout


@pytest.mark.parametrize("storage", STORAGE)
def test_every_driver_shows_the_same_tree(pe: Pe, storage: str) -> None:
    script = "find / -xdev -not -path '/proc*' -printf '%p %y %m %U %G %s %l\\n' | grep -v ' d ' | sort | sha256sum"
    shown, reference = (
        pe("run", "--rm", "--net", "none", "--storage", name, "host:base", "sh", "-c", script, check=True).stdout
        for name in (storage, "overlay")
    )
    assert shown == reference


@pytest.mark.parametrize("storage", STORAGE)
def test_programs_can_map_lock_and_sync_files(pe: Pe, storage: str) -> None:
    script = """
import fcntl, mmap, os
with open('/data', 'w+b') as file:
    file.truncate(8192)
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
    with mmap.mmap(file.fileno(), 8192) as area:
        area[:5] = b'hello'
        area.flush()
    os.fsync(file.fileno())
    os.posix_fallocate(file.fileno(), 0, 1 << 20)
os.rename('/data', '/other')
os.link('/other', '/third')
os.setxattr('/other', 'trusted.x' if False else 'user.x', b'1')
print(open('/third', 'rb').read(5), os.stat('/other').st_nlink, os.getxattr('/third', 'user.x'))
"""
    done = pe("run", "--rm", "--net", "none", "--storage", storage, "host:python", "python3", "-c", script, check=True)
    assert done.stdout == "b'hello' 2 b'1'\n"
