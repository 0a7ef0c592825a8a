"""What a power cut leaves of a copy-up, on filesystems that are shut down in the midst of it: all of it or nothing."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from plugengine_fuse_union.durability import keeps_order

from plugengine.kernel.loop import loop_attach
from plugengine.kernel.mount import mount, umount2
from tests.conftest import need_tool
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World

IMAGE_BYTES = 320 << 20
FILES = 60
COMMIT_EVERY = 7
CONTENT = os.urandom(5000)
MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, without writing the journal out: from now on nothing reaches the disk.
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = struct.pack("=I", 2)


def make_disk(image: Path, kind: str, *arguments: str) -> None:
    """Make a filesystem in a file."""
    with open(image, "wb") as stream:
        stream.truncate(IMAGE_BYTES)
    program, *options = MAKE[kind]
    subprocess.run([need_tool(program), *options, *arguments, image], check=True, capture_output=True)


@contextmanager
def mounted(image: Path, kind: str, point: Path) -> Iterator[None]:
    """Mount such a file."""
    backing = os.open(image, os.O_RDWR)
    device, fd = loop_attach(backing)
    os.close(backing)
    try:
        mount(device, str(point), kind)
    finally:
        os.close(fd)
    try:
        yield
    finally:
        umount2(str(point))


def left_of_copies(world: World, kind: str) -> list[bytes]:
    """Append to files of a layer, commit the journal now and then, cut the power; return what is in the copies."""
    for number in range(FILES):
        (world.layers[0] / f"f{number}").write_bytes(CONTENT)
    image, point = world.base / "image", world.base / "s"
    make_disk(image, kind)
    with mounted(image, kind, point):
        world.mount()
        other = os.open(point / "other", os.O_RDWR | os.O_CREAT)
        for number in range(FILES):
            with open(world.root / f"f{number}", "ab") as stream:
                stream.write(b"x")
            if number % COMMIT_EVERY == 0:
                os.pwrite(other, b"x", number)
                os.fsync(other)  # brings the names of the copies so far to the disk
        fcntl.ioctl(other, SHUTDOWN, NO_LOG_FLUSH)
        os.close(other)
        world.unmount()
    with mounted(image, kind, point):
        return [path.read_bytes() for path in world.upper.glob("f*")]


@pytest.mark.parametrize("kind", MAKE)
def test_a_power_cut_leaves_whole_copies_or_none(world: World, kind: str) -> None:
    left = left_of_copies(world, kind)
    assert len(left) > FILES // 2
    assert [content for content in left if content[: len(CONTENT)] != CONTENT] == []


def test_a_power_cut_leaves_empty_copies_where_durability_was_given_up(make_world: MakeWorld) -> None:
    left = left_of_copies(make_world(options={"fsync": "off"}), "ext4")
    assert b"" in left  # so the test above can tell


@pytest.mark.parametrize("size", [10_000, 3_000_000])
@pytest.mark.parametrize("held", [False, True], ids=["alone", "while it is read"])
@pytest.mark.parametrize("kind", MAKE)
def test_what_a_program_synchronized_is_there_although_its_file_was_just_copied(
    world: World, kind: str, held: bool, size: int
) -> None:
    content = CONTENT * (size // len(CONTENT))
    (world.layers[0] / "first").write_bytes(content)
    image, point = world.base / "image", world.base / "s"
    make_disk(image, kind)
    with mounted(image, kind, point):
        world.mount()
        reader = os.open(world.root / "first", os.O_RDONLY) if held else -1
        fd = os.open(world.root / "first", os.O_RDWR)
        os.pwrite(fd, b"new", 0)
        os.fdatasync(fd)  # of data in place, which alone would leave the name to a later commit
        fcntl.ioctl(cut := os.open(point, os.O_RDONLY), SHUTDOWN, NO_LOG_FLUSH)
        for each in (fd, cut, *([reader] if held else [])):
            os.close(each)
        world.unmount()
    with mounted(image, kind, point):
        assert (world.upper / "first").read_bytes() == b"new" + content[3:]


@pytest.mark.parametrize(
    ("kind", "arguments", "ordered"),
    [("ext4", (), True), ("ext4", ("-O", "^has_journal"), False), ("xfs", (), True)],
    ids=["ext4", "without a journal", "xfs"],
)
def test_only_a_journal_keeps_the_order(tmp_path: Path, kind: str, arguments: tuple[str, ...], ordered: bool) -> None:
    make_disk(tmp_path / "image", kind, *arguments)
    (tmp_path / "m").mkdir()
    with mounted(tmp_path / "image", kind, tmp_path / "m"):
        fd = os.open(tmp_path / "m", os.O_RDONLY)
        assert keeps_order(fd) is ordered
        os.close(fd)


def test_memory_has_no_order_to_keep() -> None:
    fd = os.memfd_create("nowhere")
    assert keeps_order(fd) is False
    os.close(fd)
