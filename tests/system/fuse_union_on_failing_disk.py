"""A union whose upper directory lies on a disk that fails; run in a machine of its own, which has a device mapper."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugengine.kernel.loop import loop_attach
from plugengine.kernel.mount import mount, umount2
from tests.drivers.fuse_union.world import World

MIB = 1 << 20
SIZE = 32 * MIB
SECTOR = 512
NAME, DISK = "disk", "/dev/dm-0"  # the only one of this machine
# What follows the sectors in a table of the device mapper. "flakey" fails what is written for ten minutes of ten.
WORKS, READS_ONLY, FAILS = "linear {} 0", "flakey {} 0 0 600 1 error_writes", "error"
E2FSCK_CORRECTED = 1
GONE = {errno.EIO, errno.EROFS}  # ext4 stops writing at the first error


def run(*command: str, most: int = 0) -> None:
    """Run a program that may end with a status of at most so much."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode <= most, (command, done.stdout, done.stderr)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A loop device, and a disk of the device mapper on it that works."""
    backing = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    os.truncate(backing, SIZE)
    device, fd = loop_attach(backing)
    try:
        run("dmsetup", "create", NAME, "--noudevsync", "--table", table(WORKS, device))
        run("mkfs.ext4", "-q", DISK)
        yield device
    finally:
        run("dmsetup", "remove", "--noudevsync", NAME)
        os.close(fd)
        os.close(backing)


def table(kind: str, device: str) -> str:
    """Return a table that maps the whole disk."""
    return f"0 {SIZE // SECTOR} {kind.format(device)}"


def become(kind: str, device: str) -> None:
    """Let the disk work, or not, from now on."""
    run("dmsetup", "suspend", "--noflush", "--nolockfs", "--noudevsync", NAME)
    run("dmsetup", "load", NAME, "--table", table(kind, device))
    run("dmsetup", "resume", "--noudevsync", NAME)


@contextmanager
def mounted(world: World) -> Iterator[None]:
    """Mount the disk below the union, and the union."""
    mount(DISK, str(world.base / "s"), "ext4")
    try:
        world.mount()
        yield
    finally:
        world.unmount()
        umount2(str(world.base / "s"))


def write_safely(path: Path, content: bytes) -> None:
    """Write a file and wait for the disk."""
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    parent = os.open(path.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


@pytest.mark.parametrize("kind", [READS_ONLY, FAILS], ids=["writes", "all"])
def test_what_was_safe_and_the_layers_outlive_the_disk(tmp_path: Path, device: str, kind: str) -> None:
    world = World(tmp_path / "w")
    layer, content = os.urandom(MIB), os.urandom(MIB)
    for name in ("changed", "kept", "opened"):
        (world.layers[0] / name).write_bytes(layer)
    with mounted(world):
        for name in ("safe", "changed"):
            write_safely(world.root / name, content)
        server = world.pid
        become(kind, device)
        acts: list[Callable[[], None]] = [
            lambda: write_safely(world.root / "lost", content),
            lambda: os.close(os.open(world.root / "opened", os.O_RDWR)),
            lambda: (world.root / "kept").chmod(0o600),
        ]
        for act in acts:
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno in GONE
        for name in ("kept", "opened"):
            assert (world.root / name).read_bytes() == layer
        assert {"safe", "changed", "kept", "opened"} <= set(os.listdir(world.root))
        assert os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        assert "OSError(5" in world.complaints
        become(WORKS, device)
    run("e2fsck", "-f", "-y", DISK, most=E2FSCK_CORRECTED)
    expected = {"safe": content, "changed": content, "kept": layer, "opened": layer}
    with mounted(world):
        assert {name: (world.root / name).read_bytes() for name in expected} == expected
        assert not os.listdir(world.base / "s" / "work" / "stage")
        write_safely(world.root / "kept", content)
    assert (world.layers[0] / "kept").read_bytes() == layer
