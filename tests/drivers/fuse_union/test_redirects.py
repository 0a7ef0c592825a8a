"""What overlayfs only marked as moved (redirect_dir) or as copied without its data (metacopy) is found and kept."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.pictures import picture
from tests.drivers.fuse_union.world import World

KERNEL = "redirect_dir=on,metacopy=on"
FOLLOW = {"redirect_dir": "follow", "metacopy": "on"}
WAYS = [
    pytest.param({}, id="passthrough"),
    pytest.param({"passthrough": "off"}, id="served"),
    pytest.param({"transport": "fusepy"}, id="libfuse"),
]
PASSED = WAYS[:2]
OLD_NS = 5 * 10**17
REDIRECT, METACOPY = "trusted.overlay.redirect", "trusted.overlay.metacopy"
OPAQUE = "trusted.overlay.opaque"


def fill(world: World) -> None:
    """Directories in several layers, files of any size, holes, links, capabilities, whiteouts and opaque ones."""
    low, middle, top = world.layers
    for layer, names in (
        (low, ("d", "d/sub", "e", "f/deep/er", "g")),
        (middle, ("d/sub", "g")),
        (top, ("d", "f/deep")),
    ):
        for name in names:
            (layer / name).mkdir(parents=True, exist_ok=True)
            (layer / name / f"of-{layer.name}").write_text(f"{layer.name}/{name}")
    (low / "d" / "large").write_bytes(os.urandom(300_000))
    (low / "d" / "empty").touch()
    (low / "d" / "setuid").write_bytes(b"program")
    (low / "d" / "setuid").chmod(0o4755)
    (low / "d" / "sub" / "link").symlink_to("of-l0")
    (low / "e" / "small").write_text("small")
    os.link(low / "e" / "small", low / "e" / "twin")
    with open(low / "e" / "holes", "wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"end")
    (low / "e" / "capable").write_bytes(b"c" * 100)
    os.setxattr(low / "e" / "capable", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(low / "e" / "capable", "user.note", b"kept")
    os.mknod(top / "d" / "of-l0", stat.S_IFCHR, 0)
    os.setxattr(middle / "g", OPAQUE, b"y")
    for layer in world.layers:
        for directory, names_, files in os.walk(layer, topdown=False):
            for name in (*names_, *files):
                os.utime(Path(directory, name), ns=(OLD_NS, OLD_NS), follow_symlinks=False)


def change_by_kernel(root: Path) -> None:
    """Make every kind of mark: relative and absolute redirects, of redirected things too, and metacopies."""
    (root / "d").rename(root / "d2")  # relative
    (root / "new").mkdir()
    (root / "f" / "deep").rename(root / "new" / "deep")  # absolute
    (root / "new" / "deep" / "er").rename(root / "er")  # out of what was moved
    (root / "d2" / "sub").rename(root / "d2" / "sub2")  # relative, below one that was moved
    (root / "d").mkdir()  # opaque, where something was
    (root / "d" / "mine").write_text("mine")
    (root / "d2" / "large").chmod(0o600)
    os.chown(root / "e" / "small", 7, 7)
    os.chown(root / "e" / "holes", 8, 8)
    (root / "e" / "holes").rename(root / "moved-holes")
    (root / "e" / "capable").chmod(0o711)
    (root / "d2" / "empty").chmod(0o640)
    (root / "d2" / "setuid").chmod(0o4711)
    (root / "d2" / "setuid").rename(root / "d2" / "setuid2")
    os.chown(root / "g" / "of-l1", 9, 9)
    os.link(root / "g" / "of-l1", root / "g" / "hard")
    (root / "d2" / "sub2" / "of-l1").unlink()


def marks(upper: Path) -> dict[str, set[str]]:
    """Return which private marks the files of an upper directory have."""
    found = {}
    for directory, names, files in os.walk(upper):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            have = {each for each in os.listxattr(path, follow_symlinks=False) if each in {REDIRECT, METACOPY}}
            if have:
                found[os.path.relpath(path, upper)] = have
    return found


def full_picture(root: Path) -> dict[str, Any]:
    """Return everything visible, with the blocks of files, by which programs look for holes."""
    return {
        path: (*entry, os.lstat(str(root) + path).st_blocks if entry[0].startswith("0o10") else None)
        for path, entry in picture(str(root)).items()
    }


def marked_world(make_world: MakeWorld, options: dict[str, str]) -> tuple[World, dict[str, Any]]:
    """Return an unmounted union that the kernel has changed, and what it showed."""
    world = make_world(layers=3, options={**FOLLOW, **options})
    fill(world)
    world.mount_overlay(KERNEL)
    change_by_kernel(world.root)
    world.remount()
    expected = full_picture(world.root)
    world.unmount()
    redirects = [
        os.getxattr(world.upper / name, REDIRECT) for name, have in marks(world.upper).items() if REDIRECT in have
    ]
    assert any(each.startswith(b"/") for each in redirects)
    assert any(not each.startswith(b"/") for each in redirects)
    assert METACOPY in marks(world.upper)["e/small"]
    return world, expected


@pytest.mark.parametrize("options", WAYS)
def test_an_upper_directory_with_redirects_and_metacopies_shows_the_kernels_tree(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world, expected = marked_world(make_world, options)
    before = marks(world.upper)
    world.mount()
    assert full_picture(world.root) == expected
    world.unmount()
    assert marks(world.upper) == before, "reading has changed something"


@pytest.mark.parametrize("options", WAYS)
def test_layers_with_redirects_and_metacopies_show_the_kernels_tree(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world, expected = marked_world(make_world, options)
    above = make_world(layers=1, options={**FOLLOW, **options})
    above.use_layers([*world.layers, world.upper])
    above.mount()
    assert full_picture(above.root) == expected
    # And once more, moved by the kernel in a layer above: redirects of redirects.
    above.unmount()
    above.mount_overlay(KERNEL)
    (above.root / "d2").rename(above.root / "d3")
    (above.root / "new" / "deep").rename(above.root / "e" / "deep")
    (above.root / "moved-holes").rename(above.root / "again")
    os.chown(above.root / "d3" / "large", 1, 1)
    above.remount()
    expected = full_picture(above.root)
    above.unmount()
    above.mount()
    assert full_picture(above.root) == expected


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"appended")


def _change_more(root: Path) -> None:
    _append(root / "e" / "small")
    _append(root / "moved-holes")
    os.truncate(root / "d2" / "large", 1000)
    (root / "d2" / "setuid2").rename(root / "setuid3")
    (root / "e" / "capable").rename(root / "d" / "capable")
    (root / "d2").rename(root / "d4")
    (root / "new" / "deep").rename(root / "d" / "deep")
    os.chown(root / "d4" / "empty", 3, 3)
    os.link(root / "g" / "hard", root / "g" / "third")
    shutil.rmtree(root / "er")
    (root / "f").rename(root / "d4" / "f")
    (root / "d2").mkdir()


CHANGES: list[Callable[[Path], object]] = [
    lambda root: _append(root / "e" / "small"),
    lambda root: _append(root / "d2" / "large"),
    lambda root: (root / "moved-holes").write_text("new"),
    lambda root: os.truncate(root / "d2" / "large", 70_000),
    lambda root: os.chown(root / "e" / "capable", 5, 5),
    lambda root: (root / "e" / "capable").rename(root / "capable"),
    lambda root: (root / "d2").rename(root / "new" / "d2"),
    lambda root: (root / "new").rename(root / "newer"),
    lambda root: (root / "e").rename(root / "d" / "e"),
    lambda root: (root / "d2" / "sub2").rename(root / "d2" / "sub"),
    lambda root: _append(root / "g" / "of-l1"),
    lambda root: shutil.rmtree(root / "er"),
    _change_more,
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
@pytest.mark.parametrize("options", WAYS)
def test_what_is_changed_on_top_of_marks_is_the_same_for_both(
    make_world: MakeWorld, options: dict[str, str], number: int
) -> None:
    world, _ = marked_world(make_world, options)
    theirs, _ = marked_world(make_world, {})
    world.mount()
    CHANGES[number](world.root)
    theirs.mount_overlay(KERNEL)
    CHANGES[number](theirs.root)
    expected = comparable(theirs.root)
    assert comparable(world.root) == expected
    world.remount()
    assert comparable(world.root) == expected
    world.unmount()
    world.mount_overlay(KERNEL)
    assert comparable(world.root) == expected, "under the kernel's overlayfs"


def comparable(root: Path) -> dict[str, Any]:
    """Return everything visible, but for what must differ."""
    seen = picture(str(root))
    for path, entry in seen.items():
        fields = list(entry)
        if path.endswith("twin"):
            fields[3] = None  # a hard link of a layer breaks when its directory is moved, for that copies it
        if path.endswith("large"):
            fields[7] = len(fields[7])  # random in each layer
        seen[path] = tuple(fields)
    return seen


@pytest.mark.parametrize("options", PASSED)
def test_a_metacopy_keeps_its_data_for_readers_and_gets_what_is_written(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world, _ = marked_world(make_world, options)
    lower = world.layers[0] / "d" / "large"
    content = lower.read_bytes()
    world.mount()
    path = world.root / "d2" / "large"
    with path.open("rb") as reader:
        assert reader.read(10) == content[:10]
        for _ in range(2):  # a second reader, and a second writer beside them
            with path.open("rb") as second:
                assert second.read() == content
        with path.open("r+b") as writer:
            writer.write(b"WRITTEN")
        assert path.read_bytes() == b"WRITTEN" + content[7:]
        reader.seek(100)
        assert reader.read(10) == content[100:110]
    assert lower.read_bytes() == content
    assert METACOPY not in marks(world.upper).get("d2/large", set())
    assert METACOPY in marks(world.upper)["e/small"], "only what is written to is completed"


def test_a_metacopy_that_is_removed_while_it_is_open_can_be_read_and_written(make_world: MakeWorld) -> None:
    world, _ = marked_world(make_world, {})
    world.mount()
    with (world.root / "e" / "capable").open("r+b", buffering=0) as writer:
        (world.root / "e" / "capable").unlink()
        writer.write(b"W")
        writer.seek(0)
        assert writer.read() == b"W" + b"c" * 99
    with (world.root / "e" / "small").open("rb", buffering=0) as reader:
        (world.root / "e" / "small").unlink()
        assert reader.read() == b"small"
        assert os.fstat(reader.fileno()).st_size == 5


def test_marks_are_refused_as_by_the_kernel_unless_they_are_to_be_believed(make_world: MakeWorld) -> None:
    world, _ = marked_world(make_world, {})
    cases = [
        ({"redirect_dir": "nofollow", "metacopy": "off"}, "redirect_dir=nofollow,metacopy=off", "d2"),
        ({"redirect_dir": "follow", "metacopy": "off"}, "redirect_dir=follow,metacopy=off", "e/small"),
    ]
    for options, kernel, name in cases:
        ours = make_world(layers=1, options=options)
        ours.use_layers(world.layers)
        ours.use_upper(world)
        for by_kernel in (False, True):
            if by_kernel:
                ours.mount_overlay(kernel)
            else:
                ours.mount()
            with pytest.raises(PermissionError):
                (ours.root / name).stat()
            assert (ours.root / "d" / "mine").read_text() == "mine"
            ours.unmount()


@pytest.mark.parametrize("target", [b"../../etc", b"..", b"a/b", b"/../x", b"/", b"//d", b"", b"/d/./sub"])
def test_a_redirect_that_leads_out_of_the_layers_is_refused(make_world: MakeWorld, target: bytes) -> None:
    world = make_world(layers=2, options=FOLLOW)
    low, top = world.layers
    (low / "d" / "sub").mkdir(parents=True)
    (top / "x").mkdir()
    os.setxattr(top / "x", REDIRECT, target)
    world.mount()
    with pytest.raises(OSError) as caught:
        os.stat(world.root / "x")
    assert caught.value.errno in {errno.EINVAL, errno.EACCES}
    assert sorted(os.listdir(world.root)) == ["d", "x"]


def test_a_metacopy_without_data_anywhere_is_an_error_of_this_file_only(make_world: MakeWorld) -> None:
    world = make_world(layers=2, options=FOLLOW)
    (world.layers[0] / "whole").write_text("whole")
    (world.layers[1] / "half").touch()
    os.setxattr(world.layers[1] / "half", METACOPY, b"")
    world.mount()
    with pytest.raises(OSError) as caught:
        (world.root / "half").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (world.root / "whole").read_text() == "whole"
    world.unmount()
    assert "LOOKUP" in world.log.read_text()
    world.log.unlink()


@pytest.mark.parametrize("options", WAYS)
def test_directories_of_layers_are_moved_as_package_managers_move_them_never_exdev(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(layers=2, options=options)
    low, top = world.layers
    mount("tmpfs", str(low), "tmpfs", 0, None)  # a filesystem of its own: overlayfs would have to copy, and refuses
    try:
        for name in (
            "node_modules/left/lib",
            "node_modules/right",
            "usr/share/doc/pkg",
            "repo/.git/objects/pack",
            "empty",
        ):
            (low / name).mkdir(parents=True)
            (low / name / "file").write_text(name)
        (low / "empty" / "file").unlink()
        (top / "node_modules" / "left").mkdir(parents=True)
        (top / "node_modules" / "left" / "upper-layer").write_text("merged")
        world.mount()
        root = world.root
        # npm: the old package aside, the new one from the side into its place, the old one removed
        (root / "node_modules" / "left").rename(root / "node_modules" / ".left-Xy12")
        (root / "node_modules" / ".left-new").mkdir()
        (root / "node_modules" / ".left-new" / "package.json").write_text("{}")
        (root / "node_modules" / ".left-new").rename(root / "node_modules" / "left")
        assert sorted(os.listdir(root / "node_modules" / "left")) == ["package.json"]
        assert (root / "node_modules" / ".left-Xy12" / "lib" / "file").read_text() == "node_modules/left/lib"
        shutil.rmtree(root / "node_modules" / ".left-Xy12")
        # dpkg: a directory becomes a symlink (dpkg-maintscript-helper dir_to_symlink)
        (root / "usr/share/doc/pkg").rename(root / "usr/share/doc/pkg.dpkg-backup")
        (root / "usr/share/doc/pkg").symlink_to("elsewhere")
        (root / "usr/share/doc").rename(root / "usr/doc")
        # git: mv of a directory, gc and clone put whole directories in place; a rename onto an empty directory
        (root / "repo/.git/objects/pack").rename(root / "repo/.git/objects/old-pack")
        (root / "repo").rename(root / "empty")
        (root / "empty").rename(root / "node_modules" / "repo")
        for _ in range(2):
            assert (root / "node_modules/repo/.git/objects/old-pack/file").read_text() == "repo/.git/objects/pack"
            assert (root / "usr/doc/pkg.dpkg-backup/file").read_text() == "usr/share/doc/pkg"
            assert sorted(os.listdir(root)) == ["node_modules", "usr"]
            assert sorted(os.listdir(root / "node_modules")) == ["left", "repo", "right"]
            world.remount()
    finally:
        world.unmount()
        umount2(str(low), MNT_DETACH)
