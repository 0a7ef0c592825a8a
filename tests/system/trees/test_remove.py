"""Removing trees that fight back."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from plugengine.errors import StateError
from plugengine.kernel import mount
from plugengine.kernel.attributes import FS_APPEND_FL, FS_IMMUTABLE_FL, set_inode_flags
from plugengine.trees.remove import remove_tree
from tests.system.trees.conftest import InChild, Make


def protect(path: str, flag: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        set_inode_flags(fd, flag)
    finally:
        os.close(fd)


def test_a_tree_of_every_kind_of_file_goes(make: Make) -> None:
    root = make("tree", ["d/", "d/e/", "d/e/f=x", "l>d", "dangling>nowhere", "-w", "o/!"])
    os.mkfifo(f"{root}/fifo")
    os.link(f"{root}/d/e/f", f"{root}/hard")
    os.mknod(f"{root}/null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{root}/socket")
    open(os.fsencode(root) + b"/d/\xff\n\\", "w").close()
    os.chmod(f"{root}/d", 0)
    remove_tree(root)
    assert not os.path.lexists(root)


def test_what_is_not_there_counts_as_removed(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "nothing"))
    remove_tree(str(tmp_path / "no" / "parent"))
    assert os.listdir(tmp_path) == []


def test_a_symlink_goes_and_what_it_points_to_stays(make: Make, tmp_path: Path) -> None:
    kept = make("kept", ["a"])
    root = make("tree", [f"l>{kept}", "d/", f"d/m>{kept}/a"])
    remove_tree(root)
    (tmp_path / "direct").symlink_to(kept)
    remove_tree(str(tmp_path / "direct"))
    assert not os.path.lexists(tmp_path / "direct")
    assert os.listdir(kept) == ["a"]


def test_a_single_file_goes(make: Make) -> None:
    root = make("tree", ["a"])
    remove_tree(f"{root}/a")
    assert os.listdir(root) == []


@pytest.mark.parametrize("flag", [FS_IMMUTABLE_FL, FS_APPEND_FL], ids=["immutable", "append-only"])
def test_flags_do_not_protect(make: Make, flag: int) -> None:
    root = make("tree", ["a", "d/", "d/b", "d/e/", "d/e/c"])
    for path in ("a", "d/e/c", "d/e", "d", ""):
        protect(f"{root}/{path}", flag)
    remove_tree(root)
    assert not os.path.exists(root)


def test_a_mount_is_neither_crossed_nor_an_excuse_for_leaving_the_rest(make: Make, in_mount_namespace: InChild) -> None:
    root = make("tree", ["a", "m/", "d/", "d/bind/", "d/x", "z"])
    precious = make("precious", ["data"])

    def work() -> str:
        mount.mount("none", f"{root}/m", "tmpfs")
        Path(root, "m", "inside").touch()
        mount.mount(precious, f"{root}/d/bind", None, mount.MS_BIND)  # the same filesystem, so st_dev does not tell
        try:
            remove_tree(root)
        except StateError as exc:
            assert os.listdir(f"{root}/m") == ["inside"]
            return exc.message
        return ""

    message = in_mount_namespace(work)
    assert message == f"remove {root}: d/bind: is a mount point (and 1 more)"
    assert os.listdir(precious) == ["data"]
    assert sorted(os.listdir(root)) == ["d", "m"]
    assert os.listdir(f"{root}/d") == ["bind"]
    remove_tree(root)
    assert not os.path.exists(root)


def test_a_tree_deeper_than_descriptors_and_recursion_goes(make: Make) -> None:
    root = make("tree")
    depth = 5000  # RLIMIT_NOFILE is 1024 by default, Python recurses 1000 deep
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(depth):
            Path("file").touch()
            os.mkdir("deeper")
            os.chdir("deeper")
    finally:
        os.chdir(here)
    before = os.listdir("/proc/self/fd")
    remove_tree(root)
    assert not os.path.exists(root)
    assert len(os.listdir("/proc/self/fd")) == len(before)
