"""Names and directories: merging, whiteouts, moves, links, listings that change while they are read."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from plugengine.kernel.attributes import get_inode_flags, set_inode_flags, statx
from plugengine.kernel.files import RENAME_WHITEOUT, renameat2
from tests.conftest import need_tool
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.world import World

FS_NODUMP_FL = 0x40


@pytest.mark.parametrize("count", [1, 2, 20, 120])
def test_the_topmost_layer_wins_among_any_number(make_world: MakeWorld, count: int) -> None:
    world = make_world(layers=count)
    for number, layer in enumerate(world.layers):
        (layer / "d").mkdir()
        (layer / "d" / "same").write_text(str(number))
        (layer / "d" / f"only{number}").touch()
    world.mount()
    assert (world.root / "d" / "same").read_text() == str(count - 1)
    assert sorted(os.listdir(world.root / "d")) == sorted(["same", *(f"only{number}" for number in range(count))])
    (world.root / "d" / "same").write_text("upper")
    (world.root / "d" / "only0").unlink()
    world.remount()
    assert (world.root / "d" / "same").read_text() == "upper"
    assert not (world.root / "d" / "only0").exists()


def test_an_image_without_layers_is_an_empty_directory(make_world: MakeWorld) -> None:
    world = make_world(layers=0).mount()
    assert os.listdir(world.root) == []
    (world.root / "new").write_text("x")
    world.remount()
    assert (world.root / "new").read_text() == "x"


def test_names_that_are_not_utf8_or_very_long_work_and_longer_ones_are_refused(world: World) -> None:
    lower = os.fsencode(world.layers[0]) + b"/\xff\xfe"
    Path(os.fsdecode(lower)).write_text("odd")
    world.mount()
    root = os.fsencode(world.root)
    assert b"\xff\xfe" in os.listdir(root)
    os.rename(root + b"/\xff\xfe", root + b"/" + b"\xe9" * 255)
    with open(root + b"/" + b"\xe9" * 255) as stream:
        assert stream.read() == "odd"
    for act in (os.stat, os.mkdir):
        with pytest.raises(OSError) as caught:
            act(root + b"/" + b"x" * 256)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_directory_of_ten_thousand_entries_is_listed_once_each(make_world: MakeWorld) -> None:
    world = make_world()
    for number in range(8000):
        (world.layers[0] / f"lower{number}").touch()
    world.mount()
    for number in range(2000):
        os.close(os.open(world.root / f"upper{number}", os.O_CREAT | os.O_WRONLY))
    names = os.listdir(world.root)
    assert len(names) == 10_000 == len(set(names))
    for number in range(0, 4000, 2):
        os.unlink(world.root / f"lower{number}")
    assert len(os.listdir(world.root)) == 8000


def test_a_reader_misses_nothing_while_others_remove_and_add(make_world: MakeWorld) -> None:
    world = make_world()
    for number in range(3000):
        (world.layers[0] / f"f{number}").touch()
    world.mount()
    seen = []
    with os.scandir(world.root) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            os.unlink(world.root / entry.name)
            if count % 3 == 0:
                (world.root / f"new{count}").touch()
    assert len(seen) == len(set(seen))
    assert {f"f{number}" for number in range(3000)} <= set(seen)


def test_a_tree_made_by_many_processes_is_removed_completely(world: World) -> None:
    world.mount()
    top = world.root / "storm"
    top.mkdir()
    script = """
import os, sys
name = sys.argv[1]
for i in range(200):
    open(f"{name}{i}", "w").close()
    if i % 3:
        os.rename(f"{name}{i}", f"r{name}{i}")
    if i % 5 == 0:
        os.makedirs(f"d{i}/{name}")
"""
    children = [subprocess.Popen([need_tool("python3"), "-c", script, name], cwd=top) for name in "wxyz"]
    assert [child.wait() for child in children] == [0] * 4
    subprocess.run(["rm", "-r", str(top)], check=True)
    assert not top.exists()


def test_a_directory_of_a_layer_is_renamed_with_all_below_it(world: World) -> None:
    world.mount()
    number = (world.root / "dir").stat().st_ino
    os.rename(world.root / "dir", world.root / "moved")
    assert (world.root / "moved" / "sub" / "deep").read_text() == "deep\n"
    assert not (world.root / "dir").exists()
    world.remount()
    assert (world.root / "moved").stat().st_ino == number
    assert (world.root / "moved" / "a").read_text() == "a of the layer\n"
    assert sorted(os.listdir(world.root)) == ["file", "link", "moved"]
    (world.root / "dir").mkdir()
    assert os.listdir(world.root / "dir") == []
    world.remount()
    assert os.listdir(world.root / "dir") == []


def test_a_directory_renamed_over_an_empty_one_does_not_merge_with_it(world: World) -> None:
    world.mount()
    for name in ("a", "sub/deep"):
        (world.root / "dir" / name).unlink()
    (world.root / "dir" / "sub").rmdir()
    (world.root / "new").mkdir()
    (world.root / "new" / "content").touch()
    os.rename(world.root / "new", world.root / "dir")
    world.remount()
    assert os.listdir(world.root / "dir") == ["content"]


def test_a_whiteout_can_be_neither_made_nor_left_from_inside(world: World) -> None:
    world.mount()
    with pytest.raises(PermissionError):
        os.mknod(world.root / "w", stat.S_IFCHR, 0)
    with pytest.raises(OSError) as caught:
        renameat2(-100, str(world.root / "file"), -100, str(world.root / "new"), RENAME_WHITEOUT)
    assert caught.value.errno == errno.EINVAL


def test_private_attributes_are_hidden_and_those_of_a_nested_union_are_kept_apart(world: World) -> None:
    world.mount()
    path = world.root / "dir"
    path.chmod(0o700)
    (path / "a").chmod(0o600)
    assert os.listxattr(path / "a") == []
    os.setxattr(path, "trusted.overlay.opaque", b"y")
    assert os.listxattr(path) == ["trusted.overlay.opaque"]
    world.remount()
    assert (path / "a").exists()
    assert os.getxattr(path, "trusted.overlay.opaque") == b"y"


def test_a_file_without_a_name_stays_usable(world: World) -> None:
    world.mount()
    with open(world.root / "file", "r+") as stream:
        os.unlink(world.root / "file")
        stream.write("FILE")
        stream.flush()
        os.fsync(stream.fileno())
        os.fchmod(stream.fileno(), 0o600)
        os.setxattr(stream.fileno(), "user.x", b"1")
        os.ftruncate(stream.fileno(), 10)
        status = os.fstat(stream.fileno())
        assert (status.st_nlink, status.st_size, stat.S_IMODE(status.st_mode)) == (0, 10, 0o600)
        assert os.pread(stream.fileno(), 99, 0) == b"FILE of th"
        with open(f"/proc/self/fd/{stream.fileno()}", "rb") as again:
            assert again.read() == b"FILE of th"


def test_a_removed_working_directory_is_empty_and_takes_nothing(world: World) -> None:
    world.mount()
    path = world.root / "gone"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        path.rmdir()
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    finally:
        os.close(fd)


def test_a_nameless_temporary_file_can_be_given_a_name(world: World) -> None:
    world.mount()
    fd = os.open(world.root / "dir", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, b"content")
        os.link(f"/proc/self/fd/{fd}", world.root / "dir" / "named", src_dir_fd=fd)
    finally:
        os.close(fd)
    world.remount()
    path = world.root / "dir" / "named"
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode), path.stat().st_nlink) == (b"content", 0o640, 1)


def test_hard_links_are_one_file_with_a_true_count(world: World) -> None:
    world.mount()
    first, second, third = (world.root / name for name in ("file", "dir/second", "third"))
    os.link(first, second)
    os.link(second, third)
    third.write_text("by the third")
    assert first.read_text() == "by the third"
    world.remount()
    assert {path.stat().st_nlink for path in (first, second, third)} == {3}
    assert len({path.stat().st_ino for path in (first, second, third)}) == 1
    with open(second, "ab", buffering=0) as stream:
        second.unlink()
        first.unlink()
        stream.write(b"!")
        assert os.fstat(stream.fileno()).st_nlink == 1
    assert third.read_text() == "by the third!"
    assert third.stat().st_nlink == 1


def test_new_files_belong_to_the_caller_and_heed_umask_and_setgid_directories(world: World) -> None:
    world.base.parent.chmod(0o755)
    world.mount()
    shared = world.root / "shared"
    shared.mkdir()
    os.chown(shared, 0, 77)
    shared.chmod(0o2777)
    (world.root / "open").mkdir()
    (world.root / "open").chmod(0o777)

    def make() -> None:
        os.umask(0o027)
        for directory in (shared, world.root / "open"):
            (directory / "file").write_text("x")
            (directory / "dir").mkdir()
            (directory / "link").symlink_to("x")

    as_user(1000, make)
    owners = {
        str(path.relative_to(world.root)): (path.lstat().st_uid, path.lstat().st_gid, oct(path.lstat().st_mode)[-4:])
        for path in (*shared.iterdir(), *(world.root / "open").iterdir())
    }
    assert owners == {
        "shared/file": (1000, 77, "0640"),
        "shared/dir": (1000, 77, "2750"),
        "shared/link": (1000, 77, "0777"),
        "open/file": (1000, 1000, "0640"),
        "open/dir": (1000, 1000, "0750"),
        "open/link": (1000, 1000, "0777"),
    }


def test_a_default_acl_is_inherited_also_where_a_whiteout_was(world: World) -> None:
    # user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
    acl = bytes.fromhex("02000000 01000700ffffffff 0200070007000000 04000500ffffffff 10000700ffffffff 20000000ffffffff")
    os.setxattr(world.layers[0] / "dir", "system.posix_acl_default", acl)
    world.mount()
    (world.root / "dir" / "a").unlink()
    umask = os.umask(0o077)
    try:
        for name in ("a", "fresh"):
            (world.root / "dir" / name).write_text("x")
            assert b"\x02\x00\x07\x00\x07\x00\x00\x00" in os.getxattr(
                world.root / "dir" / name, "system.posix_acl_access"
            )
            assert stat.S_IMODE((world.root / "dir" / name).stat().st_mode) == 0o660
    finally:
        os.umask(umask)


def test_permissions_are_checked_for_the_caller(world: World) -> None:
    world.base.parent.chmod(0o755)
    (world.layers[0] / "file").chmod(0o600)
    (world.layers[0] / "dir").chmod(0o1777)
    world.mount()

    def act() -> None:
        for attempt in (
            lambda: (world.root / "file").read_text(),
            lambda: (world.root / "dir" / "a").unlink(),
            lambda: (world.root / "new").touch(),
            lambda: (world.root / "dir" / "a").chmod(0o777),
        ):
            with pytest.raises(PermissionError):
                attempt()

    as_user(1000, act)


def test_special_files_do_what_they_do(world: World) -> None:
    os.mkfifo(world.layers[0] / "fifo")
    os.mknod(world.layers[0] / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    world.mount()
    reader = os.open(world.root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(world.root / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    os.close(writer)
    (world.root / "null").write_text("swallowed")
    (world.root / "null").chmod(0o600)
    assert (world.root / "null").stat().st_rdev == os.makedev(1, 3)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(world.root / "socket"))
        server.listen()
        client.connect(str(world.root / "socket"))
    assert stat.S_ISSOCK((world.root / "socket").stat().st_mode)


def test_locks_hold_between_processes(world: World) -> None:
    world.mount()
    with open(world.root / "file", "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        fcntl.lockf(stream, fcntl.LOCK_EX)

        def try_both() -> None:
            with open(world.root / "file", "r+") as other:
                for lock in (fcntl.flock, fcntl.lockf):
                    with pytest.raises(BlockingIOError):
                        lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        as_user(0, try_both)


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_ranges_are_allocated_punched_found_and_copied(make_world: MakeWorld, passthrough: str) -> None:
    world = make_world(options={"passthrough": passthrough}).mount()
    with open(world.root / "a", "w+b", buffering=0) as source, open(world.root / "b", "w+b", buffering=0) as target:
        source.write(b"x" * (1 << 20))
        os.posix_fallocate(target.fileno(), 0, 1 << 20)
        assert os.fstat(target.fileno()).st_size == 1 << 20
        subprocess.run(["fallocate", "-p", "-o", "65536", "-l", "131072", str(world.root / "a")], check=True)
        assert os.lseek(source.fileno(), 0, os.SEEK_HOLE) == 65536
        assert os.lseek(source.fileno(), 70000, os.SEEK_DATA) == 65536 + 131072
        assert os.copy_file_range(source.fileno(), target.fileno(), 1 << 20, 0, 0) == 1 << 20
    content = (world.root / "b").read_bytes()
    assert content == b"x" * 65536 + b"\0" * 131072 + b"x" * ((1 << 20) - 65536 - 131072)


def test_inode_flags_and_the_time_of_birth_are_shown(world: World) -> None:
    world.mount()
    (world.root / "new").touch()
    fd = os.open(world.root / "new", os.O_RDONLY)
    try:
        set_inode_flags(fd, get_inode_flags(fd) | FS_NODUMP_FL)
        assert get_inode_flags(fd) & FS_NODUMP_FL
    finally:
        os.close(fd)
    assert statx(-100, str(world.root / "new"))[0] == statx(-100, str(world.upper / "new"))[0]


def test_a_very_deep_tree_is_walked_beyond_the_longest_path(world: World) -> None:
    world.mount()
    start = os.open(world.root, os.O_RDONLY)
    here = os.dup(start)
    depth = 60
    for _ in range(depth):
        os.mkdir("n" * 200, dir_fd=here)
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("end", dir_fd=here)
    os.close(here)
    os.close(start)
    world.remount()
    here, found = os.open(world.root, os.O_RDONLY), 0
    for _ in range(depth):
        below = os.open("n" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, found = below, found + 1
    assert (found, os.listdir(here)) == (depth, ["end"])
    os.close(here)
    subprocess.run(["rm", "-r", str(world.root / ("n" * 200))], check=True)


def test_a_read_only_union_needs_no_upper_and_refuses_changes(make_world: MakeWorld) -> None:
    world = make_world(read_only=True)
    (world.layers[0] / "file").write_text("x")
    world.mount()
    assert (world.root / "file").read_text() == "x"
    with pytest.raises(OSError) as caught:
        (world.root / "new").touch()
    assert caught.value.errno == errno.EROFS


def test_reading_a_layer_leaves_no_access_time_behind(world: World) -> None:
    lower = world.layers[0] / "file"
    os.utime(lower, ns=(1, 10**18))
    world.mount()
    assert (world.root / "file").read_text()
    assert os.listdir(world.root / "dir")
    assert lower.stat().st_atime_ns == 1


def test_shared_memory_maps_are_written_to_the_upper_file(world: World) -> None:
    world.mount()
    with open(world.root / "file", "r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        memory[0:4] = b"MMAP"
        memory.flush()
        assert (world.root / "file").read_bytes().startswith(b"MMAP of")
    assert (world.layers[0] / "file").read_text() == "file of the layer\n"
    world.remount()
    assert (world.root / "file").read_bytes().startswith(b"MMAP of")
