"""Copies of trees: everything that matters of a file comes along."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from plugengine.kernel import mount
from plugengine.model import IdRange, UserMap
from plugengine.trees.copy import TreeCopy
from tests.system.trees.conftest import InChild

# include/uapi/linux/capability.h: VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, CAP_NET_RAW permitted
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
# linux/posix_acl_xattr.h: user::rw-, user:7:r--, group::---, mask::r--, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 4, 7), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path


def copy(source: Path, target: Path, *, user_map: UserMap | None = None, is_layer: bool = False) -> None:
    source_fd, target_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_RDONLY)
    try:
        TreeCopy(source_fd, target_fd, user_map=user_map, is_layer=is_layer).run()
    finally:
        os.close(source_fd)
        os.close(target_fd)


def test_owner_mode_and_times_come_along(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d" / "f").write_text("text")
    (source / "l").symlink_to("/nowhere/at all")
    for number, name in enumerate((".", "d", "d/f", "l")):
        os.chown(source / name, 100 + number, 200 + number, follow_symlinks=False)
    os.chmod(source, 0o1777)
    os.chmod(source / "d", 0o2750)
    os.chmod(source / "d/f", 0o6755)
    for number, name in enumerate(("l", "d/f", "d", ".")):
        os.utime(source / name, ns=(number * 10**9 + 1, number * 10**9 + 7), follow_symlinks=False)
    copy(source, target)
    assert (target / "d/f").read_text() == "text"
    assert os.readlink(target / "l") == "/nowhere/at all"
    for name in (".", "d", "d/f", "l"):
        before, after = os.lstat(source / name), os.lstat(target / name)
        assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid), name
        assert before.st_mtime_ns == after.st_mtime_ns, name


def test_attributes_come_along_and_those_that_steer_overlayfs_do_not(source: Path, target: Path) -> None:
    (source / "f").touch()
    (source / "l").symlink_to("f")
    os.chown(source / "f", 5, 5)  # chown(2) clears capabilities: the copy must set them last
    wanted = {
        "user.note": b"\0\xff",
        "security.capability": CAPABILITY,
        "trusted.note": b"x",
        "system.posix_acl_access": ACL,
    }
    for name, value in wanted.items():
        os.setxattr(source / "f", name, value)
    os.setxattr(source / "l", "trusted.note", b"of the link", follow_symlinks=False)
    os.setxattr(source, "trusted.overlay.opaque", b"y")
    copy(source, target)
    assert {name: os.getxattr(target / "f", name) for name in os.listxattr(target / "f")} == wanted
    assert os.getxattr(target / "l", "trusted.note", follow_symlinks=False) == b"of the link"
    assert os.listxattr(target) == []


def test_names_of_one_file_stay_names_of_one_file(source: Path, target: Path) -> None:
    (source / "d").mkdir()
    (source / "d" / "first").write_text("x")
    os.link(source / "d" / "first", source / "second")
    os.link(source / "d" / "first", source / "d" / "third")
    os.symlink("x", source / "l1")
    os.link(source / "l1", source / "l2", follow_symlinks=False)
    copy(source, target)
    inodes = {os.stat(target / name).st_ino for name in ("d/first", "second", "d/third")}
    assert len(inodes) == 1
    assert os.stat(target / "second").st_nlink == 3
    assert os.lstat(target / "l1").st_ino == os.lstat(target / "l2").st_ino


def test_special_files_are_made_and_never_opened(source: Path, target: Path) -> None:
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
    copy(source, target)
    for name in ("fifo", "null", "disk", "socket"):
        before, after = os.lstat(source / name), os.lstat(target / name)
        assert (before.st_mode, before.st_rdev) == (after.st_mode, after.st_rdev)


def test_holes_stay_holes(source: Path, target: Path) -> None:
    with open(source / "f", "wb") as stream:
        stream.seek(5 << 20)
        stream.write(b"x" * 4096)
        stream.truncate(1 << 30)
    copy(source, target)
    assert os.stat(target / "f").st_size == 1 << 30
    assert os.stat(target / "f").st_blocks * 512 <= 1 << 20
    with open(target / "f", "rb") as stream:
        stream.seek((5 << 20) - 1)
        assert stream.read(4098) == b"\0" + b"x" * 4096 + b"\0"


def test_names_that_are_no_utf8_come_along(source: Path, target: Path) -> None:
    name = b"\xff\n \\"
    open(os.fsencode(source) + b"/" + name, "w").close()
    copy(source, target)
    assert os.listdir(os.fsencode(target)) == [name]


def test_owners_are_mapped_where_the_map_has_them(source: Path, target: Path) -> None:
    for uid in (0, 9, 10):
        (source / str(uid)).touch()
        os.chown(source / str(uid), uid, uid)
    user_map = UserMap(
        uids=(IdRange(guest=0, host=1000, size=10),),
        gids=(IdRange(guest=0, host=2000, size=5), IdRange(guest=5, host=3000, size=5)),
    )
    copy(source, target, user_map=user_map)
    owners = [(os.stat(target / str(uid)).st_uid, os.stat(target / str(uid)).st_gid) for uid in (0, 9, 10)]
    assert owners == [(1000, 2000), (1009, 3004), (10, 10)]


def test_a_layer_is_copied_with_its_whiteouts(source: Path, target: Path) -> None:
    os.mknod(source / "gone", stat.S_IFCHR, 0)
    (source / "d").mkdir()
    os.setxattr(source / "d", "trusted.overlay.opaque", b"y")
    copy(source, target, is_layer=True)
    found = os.lstat(target / "gone")
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == 0
    assert os.getxattr(target / "d", "trusted.overlay.opaque") == b"y"


def test_a_copy_does_not_cross_into_a_mount(source: Path, target: Path, in_mount_namespace: InChild) -> None:
    (source / "m").mkdir()

    def work() -> str:
        mount.mount("none", str(source / "m"), "tmpfs")
        try:
            copy(source, target)
        except OSError as exc:
            return os.strerror(exc.errno or 0)
        return ""

    assert in_mount_namespace(work) == "Invalid cross-device link"


def test_a_copy_between_filesystems_works(source: Path, target: Path, in_mount_namespace: InChild) -> None:
    (source / "f").write_bytes(os.urandom(3 << 20))
    (source / "empty").touch()

    def work() -> bool:
        mount.mount("none", str(target), "tmpfs")
        copy(source, target)
        return (source / "f").read_bytes() == (target / "f").read_bytes() and sorted(os.listdir(target)) == [
            "empty",
            "f",
        ]

    assert in_mount_namespace(work)
