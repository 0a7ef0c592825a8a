"""A device program decides for a cgroup of the unified hierarchy; a broken one comes back with the verifier's words."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugengine.kernel import bpf
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.kernel.process import clone3
from tests.conftest import need

# include/uapi/linux/bpf.h: BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT
_INSTRUCTION = struct.Struct("<BBhi")
MOV64_IMM = 0xB7
EXIT = 0x95


def answering(allow: int) -> bytes:
    return _INSTRUCTION.pack(MOV64_IMM, 0, 0, allow) + _INSTRUCTION.pack(EXIT, 0, 0, 0)


@pytest.fixture
def cgroup() -> Iterator[int]:
    points = [entry.mount_point for entry in read_mountinfo() if entry.fstype == "cgroup2"]
    need(None if points else "needs a mounted cgroup2 hierarchy")
    directory = Path(points[0]) / f"plugengine-bpf-{os.getpid()}"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    directory.rmdir()


def null_inside(cgroup: int) -> int:
    """Open /dev/null inside the cgroup and return the errno, 0 for none."""
    pid, pidfd = clone3(0, cgroup_fd=cgroup)
    if pid == 0:
        try:
            os.open("/dev/null", os.O_RDWR)
        except OSError as exc:
            os._exit(exc.errno or 255)
        finally:
            os._exit(0)
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert ended is not None
    return ended.si_status


def test_a_program_refuses_and_another_put_in_its_place_allows(cgroup: int) -> None:
    refuse, allow = bpf.load_device_program(answering(0)), bpf.load_device_program(answering(1))
    try:
        assert null_inside(cgroup) == 0
        bpf.attach_device_program(cgroup, refuse)
        assert null_inside(cgroup) == errno.EPERM
        bpf.attach_device_program(cgroup, allow, replace_fd=refuse)
        assert null_inside(cgroup) == 0
        assert len(bpf.query_device_programs(cgroup)) == 1
        bpf.detach_device_program(cgroup, allow)
        assert bpf.query_device_programs(cgroup) == []
        with pytest.raises(OSError, match="cgroup descriptor") as caught:
            bpf.detach_device_program(cgroup, allow)
        assert caught.value.errno == errno.ENOENT
    finally:
        os.close(refuse)
        os.close(allow)


def test_all_programs_of_a_cgroup_must_allow(cgroup: int) -> None:
    programs = [bpf.load_device_program(answering(allow)) for allow in (1, 0)]
    for program in programs:
        bpf.attach_device_program(cgroup, program)
        os.close(program)
    assert null_inside(cgroup) == errno.EPERM
    assert len(bpf.query_device_programs(cgroup)) == len(programs)


def test_an_attached_program_is_opened_by_its_id(cgroup: int) -> None:
    program = bpf.load_device_program(answering(0))
    bpf.attach_device_program(cgroup, program)
    os.close(program)
    (program_id,) = bpf.query_device_programs(cgroup)
    again = bpf.open_program(program_id)
    assert not os.get_inheritable(again)
    bpf.detach_device_program(cgroup, again)
    os.close(again)
    assert null_inside(cgroup) == 0


def test_a_program_the_verifier_refuses_comes_with_its_words() -> None:
    with pytest.raises(OSError, match="device program") as caught:
        bpf.load_device_program(answering(7))
    assert caught.value.errno == errno.EINVAL
    assert "R0" in str(caught.value.strerror)


def test_a_descriptor_that_is_no_cgroup_is_refused(tmp_path: Path) -> None:
    program = bpf.load_device_program(answering(1))
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match=f"cgroup descriptor {directory}"):
        bpf.attach_device_program(directory, program)
    os.close(directory)
    os.close(program)
