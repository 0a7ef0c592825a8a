"""Trees written as a table, and overlay mounts in a child's own mount namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from plugengine.model import HostPath
from tests.conftest import need_root
from tests.system.kernel.conftest import in_mount_namespace as in_mount_namespace

Make = Callable[..., HostPath]
InChild = Callable[[Callable[[], Any]], Any]


@pytest.fixture(autouse=True)
def _root() -> None:
    need_root()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what makes a tree: "d/" directory, "f" file, "f=text", "l>target", "-w" whiteout, "o/!" opaque."""

    def make_tree(name: str, entries: Iterable[str] = ()) -> HostPath:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        os.utime(root, (1000, 1000))
        directories = []
        for entry in entries:
            directories += _make_entry(root, entry)
        for directory in reversed(directories):
            os.utime(directory, (1000, 1000))
        return HostPath(str(root))

    return make_tree


def _make_entry(root: Path, entry: str) -> list[Path]:
    if entry.startswith("-"):
        os.mknod(root / entry[1:], 0o20000, 0)
    elif entry.endswith("!"):
        path = root / entry[:-1]
        path.mkdir(exist_ok=True)
        os.setxattr(path, "trusted.overlay.opaque", b"y")
        return [path]
    elif entry.endswith("/"):
        (root / entry).mkdir(exist_ok=True)
        return [root / entry]
    elif ">" in entry:
        name, _, target = entry.partition(">")
        (root / name).symlink_to(target)
    else:
        name, _, text = entry.partition("=")
        (root / name).write_text(text)
    return []
