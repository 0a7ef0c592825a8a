"""A FUSE connection is mounted, cloned, and given backing files."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from plugengine.kernel import fuse, mount
from plugengine.kernel.mountinfo import read_mountinfo
from tests.conftest import need
from tests.system.kernel.conftest import InChild

# include/uapi/linux/fuse.h
FUSE_INIT = 26
FUSE_INIT_EXT = 1 << 30
FUSE_PASSTHROUGH = 1 << 37
IN_HEADER = struct.Struct("<IIQQIIIHH")
INIT_IN = struct.Struct("<IIIII")
OUT_HEADER = struct.Struct("<IiQ")
# major, minor, max_readahead, flags, max_background, congestion, max_write, time_gran, max_pages, map_alignment,
# flags2, max_stack_depth, and what is left of 64 bytes
INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")


def answer_init(fd: int) -> int:
    """Answer FUSE_INIT with all that passthrough needs, and return the flags the kernel offered."""
    request = os.read(fd, 1 << 20)
    _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
    assert opcode == FUSE_INIT
    major, minor, readahead, low, high = INIT_IN.unpack_from(request, IN_HEADER.size)
    flags = FUSE_INIT_EXT | FUSE_PASSTHROUGH
    low_flags, high_flags = flags & 0xFFFFFFFF, flags >> 32
    answer = INIT_OUT.pack(major, minor, readahead, low_flags, 12, 9, 1 << 17, 1, 32, 0, high_flags, 1)
    os.write(fd, OUT_HEADER.pack(OUT_HEADER.size + len(answer), 0, unique) + answer)
    return int(low | high << 32)


def test_a_mounted_connection_asks_for_its_first_answer(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[object]:
        fd = fuse.open_fuse()
        fuse.mount_fuse(str(tmp_path), fd, source="thing", subtype="test", options=["allow_other"])
        opcode = IN_HEADER.unpack_from(os.read(fd, 1 << 20))[1]
        (entry,) = [entry for entry in read_mountinfo() if entry.mount_point == str(tmp_path)]
        os.close(fd)
        mount.umount2(str(tmp_path), mount.MNT_DETACH)
        return [opcode, entry.fstype, entry.source, "allow_other" in entry.super_options]

    assert in_mount_namespace(run) == [FUSE_INIT, "fuse.test", "thing", True]


def test_a_backing_file_is_registered_once_and_forgotten_once(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[object]:
        fd = fuse.open_fuse()
        fuse.mount_fuse(str(tmp_path), fd)
        if not answer_init(fd) & FUSE_PASSTHROUGH:
            return ["no passthrough"]
        backing = os.open("/etc/passwd", os.O_RDONLY)
        first, second = fuse.fuse_backing_open(fd, backing), fuse.fuse_backing_open(fd, backing)
        fuse.fuse_backing_close(fd, first)
        try:
            fuse.fuse_backing_close(fd, first)
        except OSError as exc:
            return [first > 0, second > 0, first != second, exc.errno, exc.filename == f"backing id {first}"]
        return []

    report = in_mount_namespace(run)
    need("needs a kernel with FUSE passthrough (Linux 6.9)" if report == ["no passthrough"] else None)
    assert report == [True, True, True, errno.ENOENT, True]


def test_a_cloned_descriptor_speaks_for_the_same_connection(tmp_path: Path, in_mount_namespace: InChild) -> None:
    def run() -> list[bool]:
        fd = fuse.open_fuse()
        fuse.mount_fuse(str(tmp_path), fd)
        clone = fuse.fuse_clone(fd)
        offered = answer_init(clone)
        return [offered > 0, clone != fd, os.get_inheritable(clone)]

    assert in_mount_namespace(run) == [True, True, False]


def test_a_connection_that_is_not_mounted_cannot_be_cloned() -> None:
    fd = fuse.open_fuse()
    try:
        with pytest.raises(OSError, match=f"FUSE descriptor {fd}") as caught:
            fuse.fuse_clone(fd)
    finally:
        os.close(fd)
    assert caught.value.errno in {errno.EINVAL, errno.EPERM}  # the latter since Linux 6.18 at least
