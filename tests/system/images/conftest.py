"""Stores of their own, trees to compare, and the proof that nothing is left behind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from plugengine.images.store import ImageStore
from plugengine.model import HostPath
from plugengine.state.state import State
from tests.conftest import need_root

Described = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def as_root_and_without_leaks() -> Iterator[None]:
    """Layers need mknod and trusted.* attributes; no test may leave a descriptor open."""
    need_root()
    before = _descriptors()
    yield
    assert _descriptors() - before == set()


def _descriptors() -> set[tuple[str, str]]:
    """Return number and target of every open descriptor."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed the directory
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    """An empty image store; afterwards no unfinished work may be there."""
    made = open_store(tmp_path / "root")
    yield made
    left = os.listdir(made.files.tmp) if os.path.isdir(made.files.tmp) else []
    made.state.close()
    assert left == []


def open_store(root: Path) -> ImageStore:
    """Open a store, as another process would."""
    path = HostPath(str(root))
    return ImageStore(path, State(path))


def describe(directory: str | os.PathLike[str], *, times: bool = True) -> Described:
    """Return all that a layer preserves, by relative name; hard links show as groups of names."""
    found: Described = {}
    inodes: dict[int, str] = {}
    for name in [".", *sorted(_names(os.fsencode(directory)))]:
        path = os.path.join(os.fsencode(directory), os.fsencode(name))
        entry = os.lstat(path)
        found[name] = {
            "type": stat.S_IFMT(entry.st_mode),
            "mode": stat.S_IMODE(entry.st_mode),
            "owner": (entry.st_uid, entry.st_gid),
            "mtime_ns": None if _is_whiteout(entry) or not times else entry.st_mtime_ns,
            "first": name if stat.S_ISDIR(entry.st_mode) else inodes.setdefault(entry.st_ino, name),
            "content": _content(path, entry),
            "xattrs": {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattrs(path)},
        }
    return found


def _is_whiteout(entry: os.stat_result) -> bool:
    return stat.S_ISCHR(entry.st_mode) and entry.st_rdev == 0


def _names(root: bytes) -> Iterator[str]:
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            yield os.fsdecode(os.path.relpath(os.path.join(directory, name), root))


def _content(path: bytes, entry: os.stat_result) -> Any:
    if stat.S_ISREG(entry.st_mode):
        return Path(os.fsdecode(path)).read_bytes()
    if stat.S_ISLNK(entry.st_mode):
        return os.readlink(path)
    return entry.st_rdev


def _xattrs(path: bytes) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]
