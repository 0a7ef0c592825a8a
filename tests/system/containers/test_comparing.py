"""What a comparison of whole trees finds is what overlayfs would have noted, and writing it down loses nothing."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plugengine import mounts
from plugengine.model import HostPath, IdRange, Mount, UserMap
from plugengine.trees import upper
from plugengine.trees.compare import compare
from plugengine.trees.derive_upper import write_upper
from plugengine.trees.flatten import write_chain
from plugengine.trees.shared_blocks import same_content
from plugengine.trees.walk import DIRECTORY
from tests.conftest import need_root
from tests.drivers.filesystems import CAPABILITY, SHARING, Store, look, mounted, rich_chain

InChild = Callable[[Callable[[], Any]], Any]
MAP = UserMap(uids=(IdRange(guest=0, host=100_000, size=65_536),), gids=(IdRange(guest=0, host=200_000, size=65_536),))


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "none")


@contextmanager
def opened(path: str | Path) -> Iterator[int]:
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def lines(chain: tuple[HostPath, ...], tree: Path, user_map: UserMap | None = None) -> list[str]:
    with opened(tree) as fd:
        return [f"{change.kind} {change.path}" for change in compare(chain, fd, user_map)]


def plain(chain: tuple[HostPath, ...], path: Path) -> Path:
    """Return a tree that is what the layers show."""
    path.mkdir()
    write_chain(chain, str(path))
    return path


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda _: None, []),
    "data of the same size at the same time": (
        lambda tree: _rewritten(tree / "big"),
        ["C /big"],
    ),
    "mode": (lambda tree: os.chmod(tree / "plain", 0o600), ["C /plain"]),
    "owner": (lambda tree: os.chown(tree / "plain", 7, 8), ["C /plain"]),
    "owner of a link": (lambda tree: os.lchown(tree / "link", 7, 8), ["C /link"]),
    "time": (lambda tree: os.utime(tree / "counter"), ["C /counter"]),
    "attribute": (lambda tree: os.setxattr(tree / "capable", "user.x", b"1"), ["C /capable"]),
    "capability taken": (lambda tree: os.removexattr(tree / "capable", "security.capability"), ["C /capable"]),
    "mode of a directory": (lambda tree: os.chmod(tree / "sticky", 0o700), ["C /sticky"]),
    "special file": (lambda tree: _again(tree / "null", os.makedev(1, 5)), ["C /null"]),
    "new in a directory": (lambda tree: _keeping_time(tree / "d", lambda d: (d / "x").touch()), ["C /d", "A /d/x"]),
    "gone from a directory": (
        lambda tree: _keeping_time(tree / "d", lambda d: (d / "kept").unlink()),
        ["C /d", "D /d/kept"],
    ),
    "a directory in place of a file": (lambda tree: _directory_for(tree / "counter"), ["C /counter", "A /counter/x"]),
    "a device 0:0, which says deleted in a layer": (lambda tree: os.mknod(tree / "w", stat.S_IFCHR), []),
}


def _directory_for(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def _rewritten(path: Path) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(found.st_size - 1)
        last = file.read(1)
        file.seek(found.st_size - 1)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _again(path: Path, device: int) -> None:
    found = path.stat()
    path.unlink()
    os.mknod(path, found.st_mode, device)
    os.chmod(path, stat.S_IMODE(found.st_mode))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _keeping_time(directory: Path, act: Callable[[Path], object]) -> None:
    found = directory.stat()
    act(directory)
    os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(("act", "expected"), CASES.values(), ids=CASES)
def test_each_kind_of_change_is_found_and_nothing_else(
    store: Store, tmp_path: Path, act: Callable[[Path], object], expected: list[str]
) -> None:
    chain = rich_chain(store)
    tree = plain(chain, tmp_path / "tree")
    root = tree.stat()
    act(tree)
    os.utime(tree, ns=(root.st_atime_ns, root.st_mtime_ns))
    assert lines(chain, tree) == expected


def test_a_time_kept_in_whole_seconds_is_no_difference(store: Store, tmp_path: Path) -> None:
    chain = (store.layer("one", {"file": "x"}),)
    os.utime(Path(chain[0], "file"), ns=(5, 7_000_000_123))
    tree = plain(chain, tmp_path / "tree")
    os.utime(tree / "file", ns=(5, 7_000_000_000))
    assert lines(chain, tree) == []
    os.utime(tree / "file", ns=(5, 8_000_000_000))
    assert lines(chain, tree) == ["C /file"]


def test_owners_of_a_user_namespace_are_no_difference(store: Store, tmp_path: Path) -> None:
    chain = rich_chain(store)
    tree = tmp_path / "tree"
    tree.mkdir()
    write_chain(chain, str(tree), user_map=MAP)
    assert lines(chain, tree, MAP) == []
    assert lines(chain, tree) != []


def changed_at_random(root: Path, chance: random.Random) -> None:
    """Do what containers do, the same on any tree with the same content; times are set, not left to the clock."""
    for number in range(120):
        directories, files = [root], []
        for directory, names, found in os.walk(root):
            directories += [
                Path(directory, name) for name in sorted(names) if not os.path.islink(f"{directory}/{name}")
            ]
            files += [Path(directory, name) for name in sorted(found)]
        directories.sort()
        files = sorted(path for path in files if path.is_file() and not path.is_symlink() and path.name != "sparse")
        where, file = chance.choice(directories), chance.choice(files)
        act = chance.choice(
            ["write", "new", "unlink", "mkdir", "rmtree", "chmod", "rename", "symlink", "xattr", "move"]
        )
        if act == "write":
            file.write_text(f"written {number}")
        elif act == "new":
            (where / f"new{number}").write_text(f"new {number}")
        elif act == "unlink":
            file.unlink()
        elif act == "mkdir":
            (where / f"dir{number}").mkdir()
        elif act == "rmtree" and where != root and len(files) > 20:
            os.system(f"rm -rf '{where}'")
        elif act == "chmod":
            os.chmod(where if number % 2 and where != root else file, 0o700 + number % 64)
        elif act == "rename":
            file.rename(where / f"renamed{number}")
        elif act == "symlink":
            os.symlink(f"to{number}", where / f"link{number}")
        elif act == "xattr":
            os.setxattr(file, f"user.n{number}", str(number).encode())
        elif act == "move" and where != root:
            os.system(f"mkdir -p '{root}/moved{number}' && cp -a '{where}' '{root}/moved{number}/' 2>/dev/null")
    for directory, names, found in os.walk(root):
        for name in (*names, *found):
            path = f"{directory}/{name}"
            if os.lstat(path).st_mtime > 1_600_000_000:
                os.utime(path, ns=(1, 9_000_000_000 + len(name)), follow_symlinks=False)
    os.utime(root, ns=(1, 9_000_000_000))


@pytest.mark.parametrize("seed", range(6))
def test_random_work_comes_to_the_same_changes_and_the_same_layer_as_on_overlayfs(
    store: Store, tmp_path: Path, in_mount_namespace: InChild, seed: int
) -> None:
    chain = rich_chain(store)
    for name in (
        "d/other-name",
        "third-name",
    ):  # overlayfs breaks links of layers at the first change, a copy keeps them
        Path(chain[0], name).unlink()
    for layer in chain:  # so that what is new can be told by its time
        for path in (*Path(layer).rglob("*"), Path(layer)):
            os.utime(path, ns=(1, 5_000_000_000), follow_symlinks=False)
    tree = plain(chain, tmp_path / "tree")
    merged, own = tmp_path / "merged", tmp_path / "upper"
    for path in (merged, own, tmp_path / "work", tmp_path / "derived", tmp_path / "again"):
        path.mkdir()
    write_chain(chain[-1:], str(own))
    os.system(f"rm -rf {own}/*")  # only the root's owner, mode and times are wanted
    derived = HostPath(str(tmp_path / "derived"))

    def work() -> None:
        options = (
            ("lowerdir", ":".join(reversed(chain))),
            ("upperdir", str(own)),
            ("workdir", str(tmp_path / "work")),
        )
        mounts.perform(Mount(fstype="overlay", source="o", target=HostPath(str(merged)), options=options))
        changed_at_random(merged, random.Random(seed))
        changed_at_random(tree, random.Random(seed))
        assert look(tree).entries == look(merged).entries
        noted = {f"{change.kind} {change.path}" for change in upper.changes(HostPath(str(own)), chain)}
        # Overlayfs copies a file up that in the end is as before; a comparison cannot know, and need not.
        found = lines(chain, tree)
        assert len(found) == len(set(found))
        assert set(found) <= noted
        assert len(found) > 30
        assert all(line.startswith("C ") for line in noted - set(found))

    in_mount_namespace(work)
    with opened(tree) as fd:
        write_upper(chain, fd, derived)
    write_chain((*chain, derived), str(tmp_path / "again"))
    assert look(tmp_path / "again").entries == look(tree).entries
    noted = {f"{change.kind} {change.path}" for change in upper.changes(derived, chain)}
    assert noted == set(lines(chain, tree))


def test_links_and_attributes_are_in_what_is_written_down(store: Store, tmp_path: Path) -> None:
    chain = rich_chain(store)
    tree = plain(chain, tmp_path / "tree")
    (tree / "new").write_text("x")
    os.chmod(tree / "new", 0o4755)
    os.setxattr(tree / "new", "security.capability", CAPABILITY)
    os.setxattr(tree / "new", "trusted.overlay.opaque", b"y")
    os.link(tree / "new", tree / "d/newer")
    (tmp_path / "derived").mkdir()
    with opened(tree) as fd:
        write_upper(chain, fd, HostPath(str(tmp_path / "derived")))
    derived = look(tmp_path / "derived")
    assert derived.groups == {("d/newer", "new")}
    assert derived.entries["new"] == look(tree).entries["new"]
    assert "trusted.overlay.opaque" not in os.listxattr(tmp_path / "derived/new")


@pytest.mark.parametrize("kind", SHARING)
def test_files_that_share_their_blocks_are_the_same_unread(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(kind, tmp_path) as point:
        (point / "one").write_bytes(os.urandom(1 << 20))
        os.system(f"cp --reflink=always {point}/one {point}/two && cp --reflink=never {point}/one {point}/three")
        read: list[int] = []
        real = os.pread

        def counting(fd: int, size: int, offset: int) -> bytes:
            read.append(size)
            return real(fd, size, offset)

        monkeypatch.setattr(os, "pread", counting)
        fds = {name: os.open(point / name, os.O_RDWR) for name in ("one", "two", "three")}
        try:
            assert same_content(fds["one"], fds["two"])
            assert read == []
            assert same_content(fds["one"], fds["three"])
            assert read != []
            os.pwrite(fds["two"], b"!!", 70_000)
            assert not same_content(fds["one"], fds["two"])
        finally:
            for fd in fds.values():
                os.close(fd)
