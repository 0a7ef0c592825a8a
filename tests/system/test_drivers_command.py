"""`pe drivers` tells the truth: what it says works, works, and what it marks is chosen."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start
from tests.system.test_bad_input import ENGINE, assert_refused

FLAGS = {
    "storage": "--storage",
    "network": "--network",
    "cgroup": "--cgroup",
    "namespace": "--namespace",
    "runtime": "--runtime",
}


class Configured(Pe):
    """The real `pe` with a configuration file."""

    config: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "PLUGENGINE_CONFIG": str(self.config)}


def listed(pe: Pe) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pe("drivers", "--format", "json", check=True).stdout.splitlines()]


def default(pe: Pe, kind: str) -> str:
    return next(str(line["Name"]) for line in listed(pe) if line["Kind"] == kind and line["Default"])


def test_what_is_supported_runs_and_what_is_not_is_refused_with_the_reasons_shown(pe: Pe, tmp_path: Path) -> None:
    conf = tmp_path / "lo.conflist"
    conf.write_text('{"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]}')
    options = {"cni": ("--net-opt", f"conf={conf}")}  # a machine may have a network of its own, which is not ours
    for line in listed(pe):
        words = ("run", "--rm", FLAGS[line["Kind"]], line["Name"], *options.get(line["Name"], ()), "host:base")
        done = pe(*words, "echo", "well")
        if line["Name"] == "macvlan" and line["Supported"] == "yes":
            assert_refused(done, ENGINE, "macvlan needs a parent")  # a network has to be made for it
        elif line["Supported"] == "yes":
            assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", ""), line["Name"]
        else:
            assert_refused(done, ENGINE, line["Name"])
            assert all(reason in done.stderr for reason in line["Reasons"])


def test_the_marked_drivers_are_those_of_a_run_without_flags(pe: Pe, start: Start) -> None:
    name = start("host:base", "true")
    template = (
        "{{.Drivers.storage}} {{.Drivers.network}} {{.Drivers.cgroup}} {{.Drivers.namespace}} {{.Drivers.runtime}}"
    )
    found = pe("inspect", "--format", template, name, check=True).stdout.split()
    assert found == [default(pe, kind) for kind in FLAGS]


def test_distribution_and_version_are_those_installed(pe: Pe) -> None:
    assert {(line["Distribution"], line["Version"]) for line in listed(pe)} == {("plugengine", version("plugengine"))}


@pytest.fixture
def configured(pe: Pe, tmp_path: Path) -> Configured:
    configured = Configured(pe.root, pe.run_root)
    configured.config = tmp_path / "config.toml"
    return configured


def test_the_configuration_file_moves_the_mark_and_the_choice(configured: Configured, pe: Pe) -> None:
    configured.config.write_text('[drivers]\nstorage = "fuse_union"\nnetwork = "none"\n')
    assert default(configured, "storage") == "fuse_union"
    assert default(configured, "network") == "none"
    assert default(pe, "storage") == "overlay", "without the file all is as before"
    steps = configured("run", "--dry-run", "host:base", "true", check=True).stdout
    assert "storage driver fuse_union" in steps
    assert "network none (none)" in steps


@pytest.mark.parametrize(
    ("text", "part"),
    [("[drivers", "config.toml"), ('[drivers]\nstorrage = "overlay"\n', "storrage"), ("\xff", "config.toml")],
    ids=["no TOML", "an unknown kind", "no UTF-8"],
)
def test_a_damaged_configuration_is_named(configured: Configured, text: str, part: str) -> None:
    configured.config.write_bytes(text.encode("latin-1"))
    assert_refused(configured("run", "--rm", "host:base", "true"), ENGINE, "configuration", part)
