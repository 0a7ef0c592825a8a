"""The device program of version 2 decides as its rules say, and the kernel takes it."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plugengine_cgroup_v2.device_program import device_program

from plugengine.errors import UsageError
from plugengine.kernel import bpf
from plugengine.model import DeviceRule, Limits
from plugengine.security import devices
from tests.conftest import need_root
from tests.drivers.control_groups import Group

TYPES = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}
NUMBERS = st.one_of(st.none(), st.sampled_from([0, 1, 5, 136, 4095, 1048575]))
RULES = st.lists(
    st.builds(
        DeviceRule,
        type=st.sampled_from("abc"),
        major=NUMBERS,
        minor=NUMBERS,
        access=st.sets(st.sampled_from("rwm"), min_size=1).map(lambda letters: "".join(sorted(letters))),
    ),
    max_size=6,
)


def run(program: bytes, kind: str, wanted: str, major: int, minor: int) -> int:
    """Run the few instructions the program is made of."""
    access = sum(ACCESS[letter] for letter in wanted)
    context = struct.pack("<III", access << 16 | TYPES[kind], major, minor)
    code = list(struct.iter_unpack("<BBhi", program))
    registers = [0] * 6
    position = 0
    while True:
        opcode, names, offset, value = code[position]
        source, target = names >> 4, names & 15
        position += 1
        if opcode == 0x61:
            (registers[target],) = struct.unpack_from("<I", context, offset)
        elif opcode == 0xBC:
            registers[target] = registers[source]
        elif opcode == 0xB4:
            registers[target] = value
        elif opcode == 0x54:
            registers[target] &= value & 0xFFFFFFFF
        elif opcode == 0x74:
            registers[target] >>= value
        elif opcode == 0x95:
            return registers[0]
        else:
            assert opcode == 0x55
            position += offset if registers[target] != value else 0


def allowed(rules: Sequence[DeviceRule], kind: str, wanted: str, major: int, minor: int) -> bool:
    access: dict[tuple[int | None, int | None], set[str]] = {}
    for rule in rules:
        if rule.type in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor):
            access.setdefault((rule.major, rule.minor), set()).update(rule.access)
    return any(set(wanted) <= letters for letters in access.values())


@settings(max_examples=300)
@given(
    rules=RULES,
    kind=st.sampled_from("bc"),
    wanted=st.sampled_from(["m", "r", "w", "rw"]),
    major=st.sampled_from([0, 1, 5, 136, 4095]),
    minor=st.sampled_from([0, 1, 5, 1048575]),
)
def test_any_list_of_rules_decides_as_read(
    rules: list[DeviceRule], kind: str, wanted: str, major: int, minor: int
) -> None:
    assert run(device_program(rules), kind, wanted, major, minor) == allowed(rules, kind, wanted, major, minor)


EVERYTHING = DeviceRule(type="a", major=None, minor=None, access="rwm")


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param((), id="nothing"),
        pytest.param(devices.RULES, id="default"),
        pytest.param((EVERYTHING,), id="everything"),
        pytest.param((EVERYTHING, *devices.RULES), id="everything-and-more"),
        pytest.param(tuple(DeviceRule(type="c", major=major, minor=1, access="r") for major in range(1000)), id="many"),
    ],
)
def test_the_kernel_takes_the_program(rules: tuple[DeviceRule, ...]) -> None:
    need_root()
    fd = bpf.load_device_program(device_program(rules))
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:bpf-prog"
    os.close(fd)


def test_more_rules_than_a_program_holds_are_refused() -> None:
    rules = [DeviceRule(type="c", major=major, minor=1, access="r") for major in range(4000)]
    with pytest.raises(UsageError, match="more rules than a program can hold"):
        device_program(rules)


def open_device(kind: int, major: int, minor: int, path: Path, flags: int = os.O_RDONLY) -> Callable[[], None]:
    def act() -> None:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
        finally:
            path.unlink()

    return act


@pytest.mark.parametrize(
    ("kind", "major", "minor", "expected"),
    [
        pytest.param(stat.S_IFCHR, 1, 3, 0, id="null"),
        pytest.param(stat.S_IFCHR, 1, 1, errno.EPERM, id="mem"),
        pytest.param(stat.S_IFCHR, 10, 229, errno.EPERM, id="fuse"),
        pytest.param(stat.S_IFBLK, 7, 0, errno.EPERM, id="loop"),
    ],
)
def test_only_listed_devices_open(
    group: Group, tmp_path: Path, kind: int, major: int, minor: int, expected: int
) -> None:
    group.limit(Limits(devices=devices.RULES))
    assert group.run(open_device(kind, major, minor, tmp_path / "node")) == expected


def test_a_new_list_takes_the_place_of_the_old_one(group: Group, tmp_path: Path) -> None:
    zero = open_device(stat.S_IFCHR, 1, 5, tmp_path / "node")
    write_zero = open_device(stat.S_IFCHR, 1, 5, tmp_path / "node", os.O_WRONLY)
    group.limit(Limits(devices=()))
    assert group.run(zero) == errno.EPERM
    group.limit(Limits(devices=(DeviceRule(type="c", major=1, minor=5, access="rm"),)))
    assert group.run(zero) == 0
    assert group.run(write_zero) == errno.EPERM
    group.limit(Limits(devices=(EVERYTHING,)))
    assert group.run(write_zero) == 0
    directory = os.open(group.directory(), os.O_RDONLY)
    assert len(bpf.query_device_programs(directory)) == 1
    os.close(directory)


def test_several_programs_are_all_replaced(group: Group, tmp_path: Path) -> None:
    directory = os.open(group.directory(), os.O_RDONLY)
    for _ in range(2):
        program = bpf.load_device_program(device_program(()))
        bpf.attach_device_program(directory, program)
        os.close(program)
    group.limit(Limits(devices=(EVERYTHING,)))
    assert len(bpf.query_device_programs(directory)) == 1
    os.close(directory)
    assert group.run(open_device(stat.S_IFCHR, 1, 5, tmp_path / "node")) == 0
