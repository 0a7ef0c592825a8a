"""Names that are not there: answered from memory once a directory is known, and there as soon as they are made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import plugengine_fuse_union as driver
import pytest

from tests.drivers.fuse_union.world import World


def absent(directory: Path, names: list[str]) -> bool:
    """Look for all names, and tell whether none is there."""
    return not any(os.access(directory / name, os.F_OK, follow_symlinks=False) for name in names)


def cache_hits(world: World) -> int:
    """Return how many requests needed no look at a disk."""
    return driver.pe_storage_stats(world.request, {})["cache_hits"]


@pytest.fixture
def names() -> list[str]:
    """More names than are looked for on the disk before a directory is listed."""
    return [f"absent{number}" for number in range(40)]


def test_a_directory_asked_for_many_absent_names_answers_from_memory(world: World, names: list[str]) -> None:
    world.mount()
    before = cache_hits(world)
    assert absent(world.root / "dir", names)
    assert cache_hits(world) - before > len(names) // 2


def test_names_that_were_absent_are_there_once_they_are_made(world: World, names: list[str]) -> None:
    world.mount()
    directory = world.root / "dir"
    assert absent(directory, names)
    (directory / names[0]).write_text("made")
    (directory / names[1]).mkdir()
    (directory / names[2]).symlink_to("nowhere")
    os.link(world.root / "file", directory / names[3])
    os.rename(world.root / "file", directory / names[4])
    os.mkfifo(directory / names[5])
    assert {name for name in os.listdir(directory) if name in names} == set(names[:6])
    assert not any(absent(directory, [name]) for name in names[:6])
    assert absent(directory, names[6:])
    world.remount()
    assert absent(directory, names[6:])
    assert not any(absent(directory, [name]) for name in names[:6])


def test_names_that_were_removed_are_absent_and_can_be_made_again(world: World, names: list[str]) -> None:
    for name in names[:5]:
        (world.layers[0] / "dir" / name).write_text("layer")
    world.mount()
    directory = world.root / "dir"
    assert absent(directory, names[5:])
    for name in names[:5]:
        (directory / name).unlink()
    assert absent(directory, names)
    (directory / names[0]).write_text("again")
    assert (directory / names[0]).read_text() == "again"
    assert absent(directory, names[1:])


def test_a_name_that_is_too_long_is_an_error_and_not_absent(world: World, names: list[str]) -> None:
    world.mount()
    assert absent(world.root / "dir", names)
    with pytest.raises(OSError, match="File name too long") as caught:
        os.stat(world.root / "dir" / ("n" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_new_directory_with_more_names_than_are_kept_shows_all(world: World) -> None:
    world.mount()
    directory = world.root / "many"
    directory.mkdir()
    for number in range(4200):
        os.mknod(directory / f"f{number}", 0o100644)
    assert absent(directory, [f"g{number}" for number in range(20)])
    assert len(os.listdir(directory)) == 4200
    (directory / "f4199").unlink()
    assert absent(directory, ["f4199"])
    assert len(os.listdir(directory)) == 4199
