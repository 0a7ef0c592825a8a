"""What a file keeps when it is copied up, and who sees what while that happens."""

from __future__ import annotations

import os
import stat

import pytest

from plugengine.kernel.machine import kernel_version
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.world import World

OPTIONS = [
    pytest.param({"passthrough": "auto"}, id="passthrough"),
    pytest.param({"passthrough": "off"}, id="served"),
]
OLD_NS = (1_234_567_890_123_456_789, 987_654_321_012_345_678)


def test_a_copied_file_keeps_owner_mode_times_xattrs_and_number(world: World) -> None:
    lower = world.layers[0] / "dir" / "a"
    os.chown(lower, 12, 34)
    os.chmod(lower, 0o6751)
    os.setxattr(lower, "user.x", b"1")
    os.setxattr(lower, "trusted.y", b"2")
    os.utime(lower, ns=OLD_NS)
    world.mount()
    path = world.root / "dir" / "a"
    before = path.stat()
    os.setxattr(path, "user.z", b"3")
    after = path.stat()
    assert world.in_upper("dir/a").st_mode == before.st_mode
    assert (after.st_uid, after.st_gid, after.st_mode) == (12, 34, before.st_mode)
    assert (after.st_atime_ns, after.st_mtime_ns) == OLD_NS
    assert after.st_ino == before.st_ino
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == {
        "user.x": b"1",
        "trusted.y": b"2",
        "user.z": b"3",
    }


def test_the_number_of_a_file_survives_copy_up_and_remount(world: World) -> None:
    world.mount()
    path = world.root / "dir" / "a"
    number, directory = path.stat().st_ino, path.parent.stat().st_ino
    path.chmod(0o600)
    (world.root / "dir" / "new").touch()
    world.remount()
    assert path.stat().st_ino == number
    assert path.parent.stat().st_ino == directory
    with os.scandir(path.parent) as entries:
        assert {entry.name: entry.inode() for entry in entries}["a"] == number


def test_a_copied_file_keeps_its_holes(world: World) -> None:
    lower = world.layers[0] / "sparse"
    with open(lower, "wb") as stream:
        stream.seek(100 << 20)
        stream.write(b"end")
        stream.truncate(200 << 20)
    world.mount()
    path = world.root / "sparse"
    path.chmod(0o600)
    assert path.stat().st_size == 200 << 20
    assert world.in_upper("sparse").st_blocks * 512 < 1 << 20
    with open(path, "rb") as stream:
        stream.seek(100 << 20)
        assert stream.read(4) == b"end\0"


def test_a_copied_file_keeps_its_access_control_list(world: World) -> None:
    # version 2; user::rwx, user:7:r--, group::r-x, mask::r-x, other::---
    acl = bytes.fromhex("02000000 01000700ffffffff 0200040007000000 04000500ffffffff 10000500ffffffff 20000000ffffffff")
    lower = world.layers[0] / "file"
    os.setxattr(lower, "system.posix_acl_access", acl)
    world.mount()
    (world.root / "file").write_text("changed")
    assert os.getxattr(world.root / "file", "system.posix_acl_access") == acl
    assert os.getxattr(world.upper / "file", "system.posix_acl_access") == acl


def test_the_time_of_a_directory_does_not_tell_that_something_in_it_was_copied_up(world: World) -> None:
    os.utime(world.layers[0] / "dir", ns=OLD_NS)
    world.mount()
    (world.root / "dir" / "a").chmod(0o600)
    world.remount()
    assert (world.root / "dir").stat().st_mtime_ns == OLD_NS[1]


def test_opening_for_truncation_copies_no_data(make_world: MakeWorld) -> None:
    world = make_world()
    with open(world.layers[0] / "big", "wb") as stream:
        stream.truncate(1 << 40)
    world.mount()
    (world.root / "big").write_bytes(b"small")
    assert (world.root / "big").read_bytes() == b"small"


@pytest.mark.parametrize("options", OPTIONS)
def test_a_writer_beside_a_reader_of_the_layer_never_touches_the_layer(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(options=options)
    lower = world.layers[0] / "f"
    lower.write_bytes(b"layer")
    world.mount()
    path = world.root / "f"
    with open(path, "rb", buffering=0) as reader:
        assert reader.read(2) == b"la"
        number = path.stat().st_ino
        with open(path, "r+b", buffering=0) as writer:
            writer.write(b"UPPER")
            writer.flush()
            with open(path, "rb") as second:
                assert second.read() == b"UPPER"
                assert os.fstat(second.fileno()).st_ino == number
            # As overlayfs before Linux 4.19 (passthrough) or after it (served).
            reader.seek(0)
            assert reader.read() == (b"layer" if options["passthrough"] == "auto" and passes() else b"UPPER")
        os.fchmod(reader.fileno(), 0o640)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.read_bytes() == b"UPPER"
    assert path.stat().st_ino == number
    assert lower.read_bytes() == b"layer"


def passes() -> bool:
    """Tell whether this kernel passes files through: Linux 6.9."""
    return kernel_version() >= (6, 9)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_truncating_open_beside_a_reader_leaves_the_layer_alone(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(options=options)
    lower = world.layers[0] / "f"
    lower.write_bytes(b"layer")
    world.mount()
    path = world.root / "f"
    with open(path, "rb", buffering=0) as reader:
        reader.read(1)
        path.write_bytes(b"")
        assert path.stat().st_size == 0
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert lower.read_bytes() == b"layer"


@pytest.mark.parametrize("options", OPTIONS)
def test_writing_by_an_ordinary_user_clears_setuid(make_world: MakeWorld, options: dict[str, str]) -> None:
    world = make_world(options=options)
    program = world.layers[0] / "program"
    program.write_bytes(b"#!")
    program.chmod(0o4777)
    world.base.parent.chmod(0o755)
    world.mount()
    path = world.root / "program"

    def write() -> None:
        with open(path, "ab", buffering=0) as stream:
            stream.write(b"more")

    as_user(1000, write)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    with open(path, "rb", buffering=0) as reader:
        reader.read(1)
        as_user(1000, write)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o4777)
    as_user(1000, lambda: os.truncate(path, 1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o4777)
    write()  # root may
    assert stat.S_IMODE(path.stat().st_mode) == 0o4777


def test_changing_the_owner_clears_setuid(world: World) -> None:
    (world.layers[0] / "file").chmod(0o6755)
    world.mount()
    os.chown(world.root / "file", 5, 5)
    assert stat.S_IMODE((world.root / "file").stat().st_mode) == 0o755


def test_what_copying_up_changes_is_seen_at_once(world: World) -> None:
    os.link(world.layers[0] / "file", world.layers[0] / "other")
    world.mount()
    path = world.root / "file"
    assert path.stat().st_nlink == 2
    with open(path, "r+b"):
        assert path.stat().st_nlink == 1
        assert path.stat().st_ctime_ns == world.in_upper("file").st_ctime_ns
        assert path.stat().st_ino != (world.root / "other").stat().st_ino


def test_a_copied_name_leaves_its_hard_links_in_the_layer(world: World) -> None:
    os.link(world.layers[0] / "file", world.layers[0] / "other")
    world.mount()
    (world.root / "file").write_text("changed")
    assert (world.root / "other").read_text() == "file of the layer\n"
    world.remount()
    assert (world.root / "other").read_text() == "file of the layer\n"
    assert (world.root / "file").read_text() == "changed"


def test_a_removed_file_of_a_layer_can_still_be_changed_by_who_has_it_open(world: World) -> None:
    world.mount()
    path = world.root / "file"
    with open(path, "rb") as stream:
        path.unlink()
        os.fchmod(stream.fileno(), 0o600)
        status = os.fstat(stream.fileno())
        assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (0, 0o600)
        assert stream.read() == b"file of the layer\n"
    assert not path.exists()
    assert os.listdir(world.base / "s" / "work" / "stage") == ["whiteout"]


def test_a_copy_that_does_not_fit_leaves_the_file_as_it_was(make_world: MakeWorld) -> None:
    world = make_world()
    with open(world.layers[0] / "big", "wb") as stream:
        stream.write(os.urandom(8 << 20))
    world.mount_storage_tmpfs("size=2m")
    world.mount()
    before = (world.root / "big").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        os.truncate(world.root / "big", 7 << 20)
    with pytest.raises(OSError, match="No space left"):
        os.chmod(world.root / "big", 0o600)
    assert (world.root / "big").read_bytes() == before
    assert os.listdir(world.base / "s" / "work" / "stage") == []
    (world.root / "small").write_text("fits")
    assert (world.root / "small").read_text() == "fits"


def test_nothing_is_copied_up_by_looking(world: World) -> None:
    world.mount()
    for directory, _, files in os.walk(world.root):
        for name in files:
            path = os.path.join(directory, name)
            os.lstat(path)
            with open(path, "rb") as stream:
                stream.read()
            os.listxattr(path, follow_symlinks=False)
    with pytest.raises(OSError, match="No data"):
        os.removexattr(world.root / "file", "user.absent")
    assert os.listdir(world.upper) == []
