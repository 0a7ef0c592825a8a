"""Layers with `.wh.NAME` and `.wh..wh..opq`, as podman unpacks them for a mount program."""

from __future__ import annotations

import os
import stat

import pytest

from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World


@pytest.fixture
def marked(make_world: MakeWorld) -> World:
    """Three layers: the middle one removes from the lowest, the topmost has nothing to say."""
    world = make_world(layers=3, server={"whiteout_files": True})
    bottom, middle, _ = world.layers
    for name in ("kept/a", "removed/a", "opaque/a", "file", "both/a"):
        path = bottom / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("below")
    (middle / "opaque").mkdir()
    (middle / "opaque" / "b").write_text("middle")
    (middle / "both").mkdir()
    for name in (".wh.removed", ".wh.file", "opaque/.wh..wh..opq", ".wh.both", ".wh.never"):
        (middle / name).touch()
    return world.mount()


def test_what_a_layer_removes_is_neither_listed_nor_found(marked: World) -> None:
    assert sorted(os.listdir(marked.root)) == ["both", "kept", "opaque"]
    for name in ("removed", "removed/a", "file", ".wh.file", ".wh.never"):
        assert not os.path.lexists(marked.root / name), name
    assert os.listdir(marked.root / "kept") == ["a"]


def test_an_opaque_directory_shows_only_what_is_above(marked: World) -> None:
    assert os.listdir(marked.root / "opaque") == ["b"]
    assert not (marked.root / "opaque" / "a").exists()


def test_a_directory_beside_its_own_mark_replaces_the_one_below(marked: World) -> None:
    assert os.listdir(marked.root / "both") == []


def test_a_removed_name_can_be_made_again_and_removed_without_a_whiteout(marked: World) -> None:
    (marked.root / "removed").mkdir()
    assert os.listdir(marked.root / "removed") == []
    (marked.root / "file").write_text("new")
    marked.remount()
    assert os.listdir(marked.root / "removed") == []
    assert (marked.root / "file").read_text() == "new"
    (marked.root / "removed").rmdir()
    (marked.root / "file").unlink()
    assert os.listdir(marked.upper) == []


def test_what_a_mark_does_not_reach_is_removed_by_a_whiteout_of_the_kernels_form(marked: World) -> None:
    (marked.root / "kept" / "a").unlink()
    status = marked.in_upper("kept/a")
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == 0


def test_the_longest_names_have_no_mark_and_are_looked_up_like_others(marked: World) -> None:
    name = "n" * 255
    assert not (marked.root / name).exists()
    (marked.root / name).touch()
    assert name in os.listdir(marked.root)


def test_without_the_setting_they_are_files_like_others(make_world: MakeWorld) -> None:
    world = make_world()
    (world.layers[0] / ".wh.name").touch()
    world.mount()
    assert os.listdir(world.root) == [".wh.name"]
