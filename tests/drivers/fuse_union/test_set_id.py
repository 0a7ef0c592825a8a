"""Nobody runs as another by a program they have changed: every way to write clears set-id bits, and is seen at once."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugengine.kernel.capabilities import CAPABILITIES
from plugengine.kernel.credentials import capget, capset
from plugengine.kernel.files import fallocate
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.test_copy_up import OPTIONS
from tests.drivers.fuse_union.world import World

USER = 2002
BLOCK = 4096
CAPABLE = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, version 2


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def write(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, os.pread(fd, 1, 0), 0)


def write_around_the_cache(path: Path) -> None:
    with opened(path, os.O_RDWR | os.O_DIRECT) as fd, mmap.mmap(-1, BLOCK) as block:
        assert os.preadv(fd, [block], 0) == BLOCK
        assert os.pwritev(fd, [block], 0) == BLOCK


def splice(path: Path) -> None:
    read_end, write_end = os.pipe()
    with opened(path, os.O_RDWR) as fd:
        os.write(write_end, os.pread(fd, 1, 0))
        assert os.splice(read_end, fd, 1, offset_dst=0) == 1


def allocate(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        fallocate(fd, 0, 0, 1)


def copy_range(path: Path) -> None:
    with opened(path.with_name("same"), os.O_RDONLY) as source, opened(path, os.O_WRONLY) as fd:
        assert os.copy_file_range(source, fd, BLOCK, 0, 0) == BLOCK


def truncate(path: Path) -> None:
    os.truncate(path, path.with_name("same").stat().st_size)


def truncate_open(path: Path) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, path.with_name("same").stat().st_size)


def open_truncated(path: Path) -> None:
    content = path.with_name("same").read_bytes()
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        os.write(fd, content)


WAYS = (
    write,
    write_around_the_cache,
    splice,
    allocate,
    copy_range,
    truncate,
    truncate_open,
    open_truncated,
)


def world_with_program(make_world: MakeWorld, options: dict[str, str]) -> World:
    """Return a mounted union: set-id copies of id(1) in a layer and in upper, and one without bits beside them."""
    world = make_world(options=options)
    shutil.copy("/usr/bin/id", world.layers[0] / "same")
    shutil.copy("/usr/bin/id", world.layers[0] / "lower")
    (world.layers[0] / "lower").chmod(0o6777)
    world.base.parent.chmod(0o755)
    world.mount()
    shutil.copy(world.root / "same", world.root / "upper")
    (world.root / "upper").chmod(0o6777)
    return world


def ids_of(path: Path) -> tuple[int, int]:
    """Execute it as an ordinary user, and return as whom it ran; nothing asks for its attributes before."""
    words = [
        subprocess.run([path, option], user=USER, group=USER, extra_groups=[], check=True, capture_output=True).stdout
        for option in ("-u", "-g")
    ]
    return int(words[0]), int(words[1])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("place", ["upper", "lower"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_changed_by_somebody_else_runs_as_who_calls_it(
    make_world: MakeWorld, options: dict[str, str], place: str, way: Callable[[Path], None]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / place
    assert ids_of(path) == (0, 0)
    as_user(USER, lambda: way(path))
    assert ids_of(path) == (USER, USER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert stat.S_IMODE(world.in_upper(place).st_mode) == 0o777


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("options", OPTIONS)
def test_root_changes_a_program_and_keeps_its_bits_but_only_with_the_capability_for_it(
    make_world: MakeWorld, options: dict[str, str], way: Callable[[Path], None]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / "upper"
    way(path)
    assert ids_of(path) == (0, 0)

    def without_fsetid() -> None:
        effective, permitted, inheritable = capget()
        capset(effective & ~(1 << CAPABILITIES["CAP_FSETID"]), permitted, inheritable)
        way(path)

    as_user(0, without_fsetid)
    assert ids_of(path) == (USER, USER)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_that_is_read_meanwhile_loses_its_bits_all_the_same(
    make_world: MakeWorld, options: dict[str, str], way: Callable[[Path], None]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / "upper"
    with open(path, "rb", buffering=0) as reader:
        reader.read(1)
        as_user(USER, lambda: way(path))
        assert ids_of(path) == (USER, USER)
        assert stat.S_IMODE(os.fstat(reader.fileno()).st_mode) == 0o777


@pytest.mark.parametrize("options", OPTIONS)
def test_a_program_that_is_open_for_writing_when_it_gets_its_bits_loses_them_by_a_write(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / "upper"
    path.chmod(0o777)
    fd = os.open(path, os.O_WRONLY)
    path.chmod(0o6777)
    as_user(USER, lambda: os.pwrite(fd, b"\x7f", 0))
    os.close(fd)
    assert ids_of(path) == (USER, USER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


@pytest.mark.parametrize("options", OPTIONS)
def test_nobody_can_clear_the_bits_of_a_program_without_writing_to_it(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / "upper"
    path.chmod(0o6755)

    def change_nothing() -> None:
        with opened(path, os.O_RDONLY) as fd:
            try:
                os.fchown(fd, -1, -1)
            except PermissionError:
                pass

    as_user(USER, change_nothing)
    assert ids_of(path) == (0, 0)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
@pytest.mark.parametrize("options", OPTIONS)
def test_capabilities_of_a_program_go_with_every_change(
    make_world: MakeWorld, options: dict[str, str], way: Callable[[Path], None]
) -> None:
    world = world_with_program(make_world, options)
    path = world.root / "upper"
    path.chmod(0o777)
    os.setxattr(path, "security.capability", CAPABLE)
    way(path)
    assert "security.capability" not in os.listxattr(path)
