"""What kernel and machine this is, against the words of other programs."""

from __future__ import annotations

import subprocess

import pytest

from plugengine.kernel import machine
from tests.conftest import need_tool


def test_the_version_is_the_one_uname_prints() -> None:
    release = subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout
    assert release.startswith(".".join(map(str, machine.kernel_version())))


def test_the_architecture_is_the_one_debian_has_for_it() -> None:
    need_tool("dpkg")
    said = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    assert machine.architecture() == {"i386": "386", "armhf": "arm", "ppc64el": "ppc64le"}.get(said, said)


@pytest.mark.parametrize(
    ("platform", "runs"),
    [
        (machine.platform(), True),
        (f"/{machine.architecture()}", True),
        ("linux/", True),
        ("", True),
        ("linux/s390y", False),
        (f"windows/{machine.architecture()}", False),
    ],
)
def test_a_platform_runs_here_or_not(platform: str, runs: bool) -> None:
    assert machine.runs_here(platform) is runs
