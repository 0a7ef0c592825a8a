from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from plugengine.bundle import Rlimit
from plugengine.cli.parse.devices import parse_device, parse_device_rule, parse_rate, parse_ulimit
from plugengine.cli.parse.errors import FlagError
from plugengine.model import DeviceRate, GuestPath, HostPath
from plugengine.spec import Device


def device(host: str, guest: str, access: str = "rwm") -> Device:
    return Device(host=HostPath(host), guest=GuestPath(guest), access=access)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/dev/fuse", device("/dev/fuse", "/dev/fuse"), id="path"),
        pytest.param("/dev/sda:/dev/xvda", device("/dev/sda", "/dev/xvda"), id="another name inside"),
        pytest.param("/dev/sda:r", device("/dev/sda", "/dev/sda", "r"), id="access"),
        pytest.param("/dev/sda:/dev/xvda:rw", device("/dev/sda", "/dev/xvda", "rw"), id="both"),
    ],
)
def test_devices(text: str, expected: Device) -> None:
    assert parse_device("--device", text) == expected


@pytest.mark.parametrize("text", ["", "dev/sda", "/dev/sda:x", "/dev/sda:rr", "/a:/b:/c", "/dev/sda:/b:", "/a:/b:c:r"])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="--device"):
        parse_device("--device", text)


@pytest.mark.parametrize("text", ["c 42:* rmw", "a *:* rwm", "b 8:0 r"])
def test_device_rules(text: str) -> None:
    assert parse_device_rule("--device-cgroup-rule", text) == text


@pytest.mark.parametrize(
    "text", ["", "c 42 rwm", "d 1:3 rwm", "c 1:3 rwx", "c 1:3", "c x:3 r", "c 1:3:4 r", "c -1:3 r"]
)
def test_other_device_rules_are_refused(text: str) -> None:
    with pytest.raises(FlagError, match="not TYPE MAJOR:MINOR ACCESS"):
        parse_device_rule("--device-cgroup-rule", text)


def node(mode: int, major: int = 8, minor: int = 16) -> Callable[[str], os.stat_result]:
    """Return a stat(2) of a node; the kernel's own has no block device to offer everywhere."""
    found = os.stat_result((mode, 0, 0, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(major, minor)})
    return lambda _path: found


@pytest.mark.parametrize(
    ("text", "operations", "rate"),
    [("/dev/sdb:1mb", False, 1 << 20), ("/dev/sdb:100", False, 100), ("/dev/sdb:1000", True, 1000)],
)
def test_rates_are_of_the_device_behind_the_path(text: str, operations: bool, rate: int) -> None:
    found = parse_rate("--device-read-bps", text, operations=operations, status=node(stat.S_IFBLK))
    assert found == DeviceRate(major=8, minor=16, rate=rate)


@pytest.mark.parametrize(
    ("text", "operations", "why"),
    [
        pytest.param("/dev/sdb", False, "not DEVICE:RATE", id="no rate"),
        pytest.param("sdb:1mb", False, "not DEVICE:RATE", id="no path"),
        pytest.param("/dev/sdb:fast", False, "not a size", id="a word"),
        pytest.param("/dev/sdb:1mb", True, "not a whole number", id="operations with a unit"),
        pytest.param("/dev/sdb:0", False, "would stop the device", id="nothing a second"),
    ],
)
def test_other_rates_are_refused(text: str, operations: bool, why: str) -> None:
    with pytest.raises(FlagError, match=why):
        parse_rate("--device-read-bps", text, operations=operations, status=node(stat.S_IFBLK))


def test_a_rate_needs_a_block_device() -> None:
    with pytest.raises(FlagError, match="/dev/null is not a block device"):
        parse_rate("--device-read-bps", "/dev/null:1mb", operations=False)
    with pytest.raises(FlagError, match="/dev/none: no such file or directory"):
        parse_rate("--device-read-bps", "/dev/none:1mb", operations=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nofile=1024:2048", Rlimit(name="nofile", soft=1024, hard=2048)),
        ("nofile=1024", Rlimit(name="nofile", soft=1024, hard=1024)),
        ("core=-1", Rlimit(name="core", soft=-1, hard=-1)),
        ("core=0:unlimited", Rlimit(name="core", soft=0, hard=-1)),
        ("RLIMIT_NPROC=5", Rlimit(name="nproc", soft=5, hard=5)),
    ],
)
def test_ulimits(text: str, expected: Rlimit) -> None:
    assert parse_ulimit("--ulimit", text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nofil=1", "did you mean nofile?"),
        ("nofile", "not NAME=SOFT"),
        ("nofile=", "not NAME=SOFT"),
        ("nofile=1:", "not NAME=SOFT"),
        ("nofile=2:1", "soft limit is above"),
        ("nofile=-1:5", "soft limit is above"),
        ("nofile=many", "not a whole number"),
        ("", "there is no limit"),
    ],
)
def test_other_ulimits_are_refused(text: str, why: str) -> None:
    with pytest.raises(FlagError, match=why.replace("?", r"\?")):
        parse_ulimit("--ulimit", text)
