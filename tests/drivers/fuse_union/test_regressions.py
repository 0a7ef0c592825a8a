"""What users of other union filesystems have reported of data and names: classes 1 to 7."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from plugengine.kernel.files import RENAME_EXCHANGE, renameat2
from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.test_copy_up import OPTIONS
from tests.drivers.fuse_union.world import World

OPAQUE = "trusted.overlay.opaque"
# version 2; user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
ACL = bytes.fromhex("02000000 01000700ffffffff 0200070007000000 04000500ffffffff 10000700ffffffff 20000000ffffffff")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def tmpfs(path: Path) -> Iterator[None]:
    """Put a filesystem of its own on a directory."""
    mount("tmpfs", str(path), "tmpfs")
    try:
        yield
    finally:
        umount2(str(path), MNT_DETACH)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def tree(root: Path) -> dict[str, str]:
    """Return every path with its content, target or kind."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            if path.is_symlink():
                said = f"-> {path.readlink()}"
            else:
                said = path.read_text() if path.is_file() else oct(path.stat().st_mode)
            found[str(path.relative_to(root))] = said
    return found


@pytest.mark.parametrize("options", OPTIONS)
def test_a_file_written_anew_over_a_layer_holds_the_new_content_and_nothing_else(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    """Class 1: old content, or zeros up to the new length, where a file was overwritten."""
    world = make_world(options=options)
    sizes = (0, 1, 10, 4095, 4096, 4097, 70_000)
    for old in sizes:
        for new in sizes:
            (world.layers[0] / f"{old}-{new}").write_bytes(b"o" * old)
    world.mount()
    for held in (False, True):  # with a reader of the layer's file beside, too
        for old in sizes:
            for new in sizes:
                path = world.root / f"{old}-{new}"
                reader = open(path, "rb") if held else None  # noqa: SIM115 - closed below
                path.write_bytes(b"n" * new)
                assert path.read_bytes() == b"n" * new
                assert path.stat().st_size == new
                if reader:
                    reader.close()
        world.remount()
        for old in sizes:
            for new in sizes:
                assert (world.root / f"{old}-{new}").read_bytes() == b"n" * new


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_database_of_a_layer_is_whole_after_it_was_rewritten(
    make_world: MakeWorld, options: dict[str, str], journal: str
) -> None:
    """Class 1: a database rewritten over the layer's was now and then corrupt."""
    world = make_world(options=options)
    with closing(sqlite3.connect(world.layers[0] / "db")) as database:
        database.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
        database.executemany("INSERT INTO t (v) VALUES (randomblob(?))", [(500 + n % 4000,) for n in range(500)])
        database.commit()
    world.mount()
    with closing(sqlite3.connect(world.root / "db")) as reader, closing(sqlite3.connect(world.root / "db")) as writer:
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (500,)
        writer.execute(f"PRAGMA journal_mode = {journal}")
        for start in range(5):
            writer.execute("UPDATE t SET v = randomblob(3000) WHERE k % 5 = ?", (start,))
            writer.commit()
        writer.execute("DELETE FROM t WHERE k % 3 = 0")
        writer.commit()
        writer.execute("VACUUM")
    world.remount()
    with closing(sqlite3.connect(world.root / "db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*), sum(length(v)) FROM t").fetchone() == (334, 334 * 3000)


def test_the_number_of_links_is_true_before_the_other_names_were_seen(world: World) -> None:
    """Class 2: st_nlink was wrong until both names had been looked up; one name's writes were not seen by the other."""
    for name in ("second", "third"):
        (world.layers[0] / "dir" / name).hardlink_to(world.layers[0] / "file")
    world.mount()
    assert (world.root / "dir" / "third").stat().st_nlink == 3
    (world.root / "one").write_text("1")
    (world.root / "two").hardlink_to(world.root / "one")
    world.remount()
    assert (world.root / "two").stat().st_nlink == 2
    (world.root / "two").write_text("2")
    assert (world.root / "one").read_text() == "2"
    with open(world.root / "one") as stream:
        (world.root / "one").unlink()
        assert os.fstat(stream.fileno()).st_nlink == 1
        (world.root / "two").unlink()
        assert os.fstat(stream.fileno()).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.link(f"/proc/self/fd/{stream.fileno()}", world.root / "again", src_dir_fd=stream.fileno())
    assert not (world.root / "again").exists()


def test_inode_numbers_of_listings_are_those_of_stat_and_never_meet_across_layers(make_world: MakeWorld) -> None:
    """Class 3: listings and stat differed, and directories with one number in two layers vanished."""
    world = make_world(layers=2)
    with tmpfs(world.layers[0]), tmpfs(world.layers[1]):  # two new filesystems number alike
        for number, layer in enumerate(world.layers):
            for name in ("x", "y"):
                (layer / f"{name}{number}").mkdir()
                (layer / f"{name}{number}" / "file").write_text(f"{name}{number}")
        assert os.stat(world.layers[0] / "x0").st_ino == os.stat(world.layers[1] / "x1").st_ino
        world.mount()
        (world.root / "x0" / "new").touch()
        before = numbers(world.root)
        (world.root / "y1" / "file").write_text("copied up")
        (world.root / "y0").chmod(0o700)
        os.rename(world.root / "y0" / "file", world.root / "y0" / "file2")
        os.rename(world.root / "y0" / "file2", world.root / "y0" / "file")
        assert numbers(world.root) == before
        world.remount()
        assert numbers(world.root) == before
        assert len(set(before.values())) == len(before) == 9
        world.unmount()


def numbers(root: Path) -> dict[str, int]:
    """Return the numbers of all entries; the listing must say what stat says."""
    found = {}
    for directory, _, _ in os.walk(root):
        with os.scandir(directory) as entries:
            for entry in entries:
                assert entry.inode() == os.lstat(entry.path).st_ino
                found[os.path.relpath(entry.path, root)] = entry.inode()
    return found


def test_directories_of_several_layers_are_moved_replaced_and_exchanged_without_exdev(make_world: MakeWorld) -> None:
    """Class 4: rename(2) of a lower or merged directory gave EXDEV, which dpkg and npm do not expect."""
    world = make_world(layers=3)
    for number, layer in enumerate(world.layers):
        (layer / "pkg" / "deep").mkdir(parents=True)
        (layer / "pkg" / f"of{number}").write_text(str(number))
        (layer / "pkg" / "deep" / f"of{number}").write_text(str(number))
    (world.layers[0] / "other").mkdir()
    world.mount()
    (world.root / "pkg" / "of1").unlink()
    expected = tree(world.root / "pkg")
    # As npm does: the new one beside, the old one away, the new one in its place.
    os.rename(world.root / "pkg", world.root / ".pkg-old")
    (world.root / ".pkg-new").mkdir()
    (world.root / ".pkg-new" / "fresh").write_text("fresh")
    os.rename(world.root / ".pkg-new", world.root / "pkg")
    assert tree(world.root / ".pkg-old") == expected
    renameat2(-100, str(world.root / ".pkg-old"), -100, str(world.root / "other"), RENAME_EXCHANGE)
    world.remount()
    assert tree(world.root / "other") == expected
    assert tree(world.root / "pkg") == {"fresh": "fresh"}
    assert tree(world.root / ".pkg-old") == {}


def test_a_listing_read_once_shows_every_later_change(world: World) -> None:
    """Class 5: listings stayed as they were after a creation, a rename or a move."""
    world.mount()
    here, there = world.root / "dir", world.root / "dir" / "sub"
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for act, left, right in (
            (lambda: None, {"a", "sub"}, {"deep"}),
            (lambda: (here / "new").touch(), {"a", "sub", "new"}, {"deep"}),
            (lambda: os.rename(here / "new", here / "renamed"), {"a", "sub", "renamed"}, {"deep"}),
            (lambda: os.rename(here / "a", there / "moved"), {"sub", "renamed"}, {"deep", "moved"}),
            (lambda: os.link(there / "deep", here / "linked"), {"sub", "renamed", "linked"}, {"deep", "moved"}),
            (lambda: os.rename(there / "moved", there / "deep"), {"sub", "renamed", "linked"}, {"deep"}),
            (lambda: (here / "linked").unlink(), {"sub", "renamed"}, {"deep"}),
            (lambda: (here / "a").mkdir(), {"a", "sub", "renamed"}, {"deep"}),
        ):
            act()  # type: ignore[no-untyped-call]
            for _ in range(2):  # the second comes from the kernel's own store
                assert (set(os.listdir(here)), set(os.listdir(fd)), set(os.listdir(there))) == (left, left, right)
            for path in (here, there):
                assert all(os.path.lexists(path / name) for name in os.listdir(path))
    finally:
        os.close(fd)


def test_whiteouts_and_opaque_marks_of_layers_mean_what_they_mean_to_the_kernel(make_world: MakeWorld) -> None:
    """Class 6: whiteouts in opaque directories, opaque marks in the middle, whiteouts of parents and over nothing."""
    world = make_world(layers=4)
    bottom, low, middle, top = world.layers
    for name in ("opaque", "gone", "again", "half"):
        (bottom / name / "sub").mkdir(parents=True)
        (bottom / name / "sub" / "file").write_text("bottom")
        (bottom / name / "beside").write_text("bottom")
    (low / "opaque").mkdir()
    (low / "opaque" / "low").write_text("low")
    os.setxattr(low / "opaque", OPAQUE, b"y")
    whiteout(low / "opaque" / "beside")
    whiteout(low / "gone")
    whiteout(low / "again")
    (middle / "again").mkdir()
    (middle / "again" / "fresh").write_text("middle")
    (middle / "opaque").mkdir()
    (middle / "opaque" / "middle").write_text("middle")
    (middle / "half").mkdir()
    whiteout(middle / "half" / "sub")
    whiteout(middle / "nothing")
    (top / "half").mkdir()
    (top / "half" / "sub").mkdir()
    (top / "opaque").mkdir()
    whiteout(top / "opaque" / "low")
    world.mount_overlay()
    expected = tree(world.root)
    world.unmount()
    world.mount()
    assert tree(world.root) == expected
    assert set(expected) == {
        *("opaque", "opaque/middle", "again", "again/fresh", "half", "half/beside", "half/sub"),
    }


def test_whiteouts_are_made_for_any_name_and_go_with_the_directory_that_holds_them(world: World) -> None:
    """Class 6: names too long for a prefix of their whiteout, and a whiteout moved with its directory."""
    long, prefixed = "n" * 255, ".wh.file"
    for name in (long, prefixed):
        (world.layers[0] / "dir" / name).touch()
    world.mount()
    for name in (long, prefixed, "a"):
        (world.root / "dir" / name).unlink()
    os.rename(world.root / "dir", world.root / "moved")
    (world.root / "dir").mkdir()
    assert (os.listdir(world.root / "dir"), os.listdir(world.root / "moved")) == ([], ["sub"])
    seen = tree(world.root)
    world.unmount()
    world.mount_overlay()
    assert tree(world.root) == seen
    world.unmount()
    world.mount()
    subprocess.run(["rm", "-r", world.root / "moved", world.root / "dir"], check=True)
    assert sorted(os.listdir(world.root)) == ["file", "link"]


def test_a_deleted_file_is_copied_and_given_a_name_like_any_other(world: World) -> None:
    """Class 7: copy_file_range(2) on a deleted file, a name for a file without one, removal while listing."""
    (world.layers[0] / "many").mkdir()
    for number in range(1000):
        (world.layers[0] / "many" / f"{number:04}").touch()
    world.mount()
    with open(world.root / "file", "r+b") as source, open(world.root / "other", "w+b") as target:
        (world.root / "file").unlink()
        (world.root / "other").unlink()
        assert os.copy_file_range(source.fileno(), target.fileno(), 100) == len(b"file of the layer\n")
        assert os.pread(target.fileno(), 99, 0) == b"file of the layer\n"
    fd = os.open(world.root, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.write(fd, b"first")
        for name in ("named", "twice"):
            os.link(f"/proc/self/fd/{fd}", world.root / name, src_dir_fd=fd)
        assert os.fstat(fd).st_nlink == 2
        (world.root / "named").unlink()
    finally:
        os.close(fd)
    assert (world.root / "twice").read_bytes() == b"first"
    with os.scandir(world.root / "many") as entries:
        for entry in entries:
            os.unlink(entry.path)
    (world.root / "many").rmdir()
