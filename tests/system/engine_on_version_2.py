"""The whole engine where only version 2 of control groups is there; run in a machine of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMAGE = "host:/bin/sh,/bin/cat,/bin/sleep"
GROUPS = Path("/sys/fs/cgroup")


def pe(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; the machine has no installed `pe`, only this checkout."""
    program = "import sys; from plugengine.cli import main; sys.exit(main())"
    environ = {**os.environ, "PLUGENGINE_ROOT": "/tmp/pe/root", "PLUGENGINE_RUN_ROOT": "/tmp/pe/run"}
    return subprocess.run(
        [sys.executable, "-c", program, *args], env=environ, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(autouse=True)
def nothing_stays() -> object:
    before = sorted(path.name for path in GROUPS.iterdir() if path.is_dir())
    yield
    assert sorted(path.name for path in GROUPS.iterdir() if path.is_dir()) == before


def test_version_2_is_chosen_and_its_limits_reach_the_guest() -> None:
    done = pe(
        "run", "--rm", "--net", "none", "-m", "48m", "--cpus", "0.5", "--pids-limit", "30", IMAGE,
        "sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max /proc/self/cgroup",
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == [str(48 << 20), "50000", "100000", "30", "0::/"]


def test_a_container_that_takes_too_much_memory_is_killed() -> None:
    done = pe("run", "--rm", "--net", "none", "-m", "24m", IMAGE, "sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done")
    assert done.returncode == 137
    assert "memory" in done.stderr


def test_a_paused_container_is_killed_and_removed() -> None:
    name = pe("run", "-d", "--net", "none", IMAGE, "sleep", "600").stdout.strip()
    assert pe("pause", name).returncode == 0
    assert pe("rm", "-f", name).returncode == 0


def test_a_driver_that_cannot_work_here_says_why() -> None:
    done = pe("run", "--rm", "--net", "none", "--cgroup", "v1", IMAGE, "sh")
    assert done.returncode == 125
    assert "cgroup v1" in done.stderr
