"""Each operation on a union ends as on overlayfs, whatever the kernel offers to a server."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugengine_fuse_union import protocol

from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.operated_layers import fill
from tests.drivers.fuse_union.operations import OPERATIONS, outcomes
from tests.drivers.fuse_union.world import World

WAYS: dict[str, dict[str, Any]] = {
    "no passthrough": {"without": protocol.FUSE_PASSTHROUGH},
    "no readdirplus": {"without": protocol.FUSE_DO_READDIRPLUS | protocol.FUSE_READDIRPLUS_AUTO},
    "no handle_killpriv_v2": {"without": protocol.FUSE_HANDLE_KILLPRIV_V2},
    "no handle_killpriv_v2, served": {"without": protocol.FUSE_HANDLE_KILLPRIV_V2 | protocol.FUSE_PASSTHROUGH},
    "no parallel_dirops": {"without": protocol.FUSE_PARALLEL_DIROPS},
    "no setxattr_ext": {"without": protocol.FUSE_SETXATTR_EXT},
    "no no_opendir": {"without": protocol.FUSE_NO_OPENDIR_SUPPORT},
    "no explicit_inval_data": {"without": protocol.FUSE_EXPLICIT_INVAL_DATA | protocol.FUSE_CACHE_SYMLINKS},
    "7.31": {"minor": 31},
    "7.37": {"minor": 37},
    "7.40": {"minor": 40},
}


@pytest.fixture(scope="module")
def expected() -> Iterator[dict[str, tuple[Any, Any]]]:
    base = Path(tempfile.mkdtemp(prefix="pe-fu-"))
    world = World(base / "o", layers=3)
    yield outcomes(world, world.mount_overlay)
    world.close()
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, tuple[Any, Any]]]:
    base = Path(tempfile.mkdtemp(prefix="pe-fu-"))
    world = World(base / "f", layers=3)
    yield outcomes(world, world.mount)
    world.close()
    shutil.rmtree(base)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_ends_as_on_overlayfs(
    expected: dict[str, tuple[Any, Any]], ours: dict[str, tuple[Any, Any]], name: str
) -> None:
    assert ours[name] == expected[name]


@pytest.mark.parametrize("way", WAYS)
def test_operations_end_the_same_without_what_a_kernel_may_not_have(
    make_world: MakeWorld, expected: dict[str, tuple[Any, Any]], way: str
) -> None:
    world = make_world(layers=3, server=WAYS[way])
    found = outcomes(world, world.mount)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_numbers_are_the_same_after_a_remount_and_a_copy_up(make_world: MakeWorld) -> None:
    world = make_world(layers=3)
    fill(world.layers)
    world.mount()

    def numbers() -> dict[str, int]:
        return {
            os.path.join(place, name): os.lstat(os.path.join(place, name)).st_ino
            for place, names, files in os.walk(world.root)
            for name in (*names, *files)
        }

    before = numbers()
    assert len(set(before.values())) == len(before) - 1, "one file has two names"
    for path in ("d/file", "large", "link", "d/sub"):
        os.utime(world.root / path, ns=(1, 1), follow_symlinks=False)
    assert numbers() == before
    world.remount()
    assert numbers() == before
