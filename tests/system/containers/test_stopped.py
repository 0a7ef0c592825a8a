"""Looking at what a container changed, while it does not run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.conftest import Pe
from tests.system.test_bad_input import NONE

_LONG_AGO_NS = 1_000_000_000


def access_times(top: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_atime_ns for path in top.rglob("*") if not path.is_symlink()}


def test_a_stopped_container_is_compared_without_touching_it(pe: Pe) -> None:
    pe("run", "--name", "still", "--storage", "vfs", *NONE, "host:base", "sh", "-c", "echo x > /new", check=True)
    try:
        identity = json.loads(pe("inspect", "still", check=True).stdout)[0]["Id"]
        [tree] = (pe.root / "containers" / identity).rglob("root/new")
        for path in tree.parent.rglob("*"):
            if not path.is_symlink():
                os.utime(path, ns=(_LONG_AGO_NS, path.lstat().st_mtime_ns))
        before = access_times(tree.parent)
        assert "A /new" in pe("diff", "still", check=True).stdout
        assert access_times(tree.parent) == before
    finally:
        pe("rm", "-f", "still", check=True)
