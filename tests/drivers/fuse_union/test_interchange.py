"""An upper directory written through one driver is read through the other."""

from __future__ import annotations

import os
import stat

from tests.drivers.fuse_union.pictures import picture
from tests.drivers.fuse_union.world import World


def change(world: World) -> None:
    """Remove, replace and make, so that every kind of marker is needed."""
    (world.root / "file").unlink()
    (world.root / "dir" / "a").unlink()
    (world.root / "dir" / "a").mkdir()
    (world.root / "dir" / "sub" / "deep").unlink()
    (world.root / "dir" / "sub").rmdir()
    (world.root / "dir" / "sub").mkdir()
    (world.root / "dir" / "sub" / "new").write_text("new")
    (world.root / "link").unlink()
    (world.root / "link").write_text("no link any more")


def test_overlayfs_reads_what_fuse_union_wrote(world: World) -> None:
    world.mount()
    change(world)
    ours = picture(str(world.root))
    world.unmount()
    world.mount_overlay()
    assert picture(str(world.root)) == ours


def test_fuse_union_reads_what_overlayfs_wrote(world: World) -> None:
    world.mount_overlay()
    change(world)
    theirs = picture(str(world.root))
    world.unmount()
    world.mount()
    assert picture(str(world.root)) == theirs


def test_whiteouts_and_opaque_directories_are_in_the_kernels_form(world: World) -> None:
    world.mount()
    change(world)
    whiteout = world.in_upper("file")
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    assert os.getxattr(world.upper / "dir" / "sub", "trusted.overlay.opaque") == b"y"
    assert os.listdir(world.upper / "dir" / "sub") == ["new"]


def test_a_lower_directory_of_both_drivers_at_once_is_the_same(world: World) -> None:
    world.mount()
    change(world)
    ours = picture(str(world.root))
    assert "/dir/sub/new" in ours
    assert "/file" not in ours
    assert ours["/link"][7] == b"no link any more"
