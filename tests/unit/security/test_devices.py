"""Rules and nodes of devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugengine.errors import NotFoundError, UsageError
from plugengine.model import DeviceRule, HostPath
from plugengine.security import devices


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("c 42:* rmw", DeviceRule(type="c", major=42, minor=None, access="rwm")),
        ("b 8:1 r", DeviceRule(type="b", major=8, minor=1, access="r")),
        ("a *:* rwm", DeviceRule(type="a", major=None, minor=None, access="rwm")),
        ("c 4095:1048575 mm", DeviceRule(type="c", major=4095, minor=1048575, access="m")),
    ],
)
def test_a_rule_is_parsed(text: str, rule: DeviceRule) -> None:
    assert devices.parse_rule(text) == rule


@pytest.mark.parametrize(
    "text",
    ["", "c", "c 1:2", "d 1:2 r", "c 1:2 x", "c 1:2 rwmr", "c 1:2 r ", "c -1:2 r", "c 4096:1 r", "c 1:1048576 r",
     "c " + "9" * 5000 + ":1 r"],
)  # fmt: skip
def test_a_bad_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--device-cgroup-rule"):
        devices.parse_rule(text)


def test_the_rule_for_a_device_has_its_numbers() -> None:
    assert devices.rules_for(HostPath("/dev/null"), "wr") == (DeviceRule(type="c", major=1, minor=3, access="rw"),)


def test_a_file_that_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a character or block device"):
        devices.rules_for(HostPath(str(tmp_path / "file")))
    with pytest.raises(UsageError, match="no device is in this directory"):
        devices.rules_for(HostPath(str(tmp_path)))
    with pytest.raises(NotFoundError, match="no such device"):
        devices.rules_for(HostPath(str(tmp_path / "gone")))
    with pytest.raises(UsageError, match="access 'rx'"):
        devices.rules_for(HostPath("/dev/null"), "rx")


def test_the_default_nodes_are_those_of_the_host() -> None:
    for node in devices.NODES:
        found = os.stat(node.path)
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (node.major, node.minor), node.path


def test_every_default_node_may_be_opened_but_not_fuse() -> None:
    def allowed(major: int, minor: int) -> bool:
        return any(
            rule.type == "c" and "r" in rule.access and rule.major == major and rule.minor in (None, minor)
            for rule in devices.RULES
        )

    assert all(allowed(node.major, node.minor) for node in devices.NODES)
    assert not allowed(10, 229)
