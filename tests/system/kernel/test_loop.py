"""A file becomes a block device, and stops being one with its last user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugengine.kernel import loop, mount
from tests.conftest import need_tool
from tests.system.kernel.conftest import InChild

SIZE = 4 << 20


def backing_of(device: str) -> str:
    path = Path(f"/sys/block/{Path(device).name}/loop/backing_file")
    return path.read_text().strip() if path.exists() else ""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def backing(image: Path) -> Iterator[int]:
    fd = os.open(image, os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_file_is_read_and_written_as_a_device(image: Path, backing: int) -> None:
    device, fd = loop.loop_attach(backing)
    try:
        assert backing_of(device) == str(image)
        assert os.lseek(fd, 0, os.SEEK_END) == SIZE
        os.pwrite(fd, b"content", 0)
        os.fsync(fd)
        assert image.read_bytes()[:7] == b"content"
    finally:
        os.close(fd)


def test_a_device_lives_as_long_as_its_mount(
    image: Path, backing: int, tmp_path: Path, in_mount_namespace: InChild
) -> None:
    subprocess.run([need_tool("mkfs.ext4"), "-q", image], check=True, capture_output=True)
    point = tmp_path / "mnt"
    point.mkdir()

    def run() -> list[str]:
        device, fd = loop.loop_attach(backing)
        mount.mount(device, str(point), "ext4")
        os.close(fd)
        while_mounted = backing_of(device)
        mount.umount2(str(point))
        return [while_mounted, backing_of(device)]

    assert in_mount_namespace(run) == [str(image), ""]


def test_a_read_only_device_refuses_writes(backing: int) -> None:
    _, fd = loop.loop_attach(backing, read_only=True)
    writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(writable, b"x", 0)
    finally:
        os.close(writable)
        os.close(fd)


def test_a_device_that_stays_is_detached_by_hand_and_twice_is_no_error(image: Path, backing: int) -> None:
    device, fd = loop.loop_attach(backing, autoclear=False)
    os.close(fd)
    assert backing_of(device) == str(image)
    fd = os.open(device, os.O_RDWR)
    loop.loop_detach(fd)
    os.close(fd)
    assert backing_of(device) == ""
    fd = os.open(device, os.O_RDWR)
    loop.loop_detach(fd)
    os.close(fd)


def test_two_devices_of_one_file_are_different(backing: int) -> None:
    first, first_fd = loop.loop_attach(backing)
    second, second_fd = loop.loop_attach(backing)
    os.close(first_fd)
    os.close(second_fd)
    assert first != second


def test_what_is_no_file_is_refused_by_name() -> None:
    receive, send = os.pipe()
    try:
        with pytest.raises(OSError, match="/dev/loop"):
            loop.loop_attach(receive)
    finally:
        os.close(receive)
        os.close(send)
