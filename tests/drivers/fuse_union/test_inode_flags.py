"""What chattr(1) forbids is forbidden, and what it allows goes on, as on overlayfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_tool
from tests.drivers.fuse_union.attempts import attempt, opened
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.test_copy_up import OPTIONS
from tests.drivers.fuse_union.world import World

APPEND = os.O_WRONLY | os.O_APPEND


def chattr(flag: str, path: Path) -> Any:
    return subprocess.run([need_tool("chattr"), flag, path], check=False, capture_output=True).returncode


def tried(path: Path) -> Any:
    """Return what comes of every way to open and touch a file."""
    calls: tuple[Callable[[], Any], ...] = (
        lambda: opened(path, APPEND, lambda fd: os.write(fd, b"more")),
        lambda: opened(path, os.O_RDWR | os.O_APPEND, lambda fd: (os.write(fd, b"more"), os.pread(fd, 3, 0))),
        lambda: opened(path, os.O_WRONLY, lambda fd: os.pwrite(fd, b"new", 0)),
        lambda: opened(path, os.O_RDWR, lambda fd: os.pwrite(fd, b"new", 0)),
        lambda: opened(path, APPEND | os.O_TRUNC, lambda _fd: None),
        lambda: os.truncate(path, 0),
        lambda: os.utime(path),
        lambda: os.utime(path, ns=(1, 1)),
        lambda: path.chmod(0o600),
        path.unlink,
        path.read_bytes,
    )
    return [attempt(call) for call in calls]


def outcomes(world: World) -> Any:
    found: list[Any] = []
    for flag in ("a", "i"):
        for name in (f"made-{flag}", f"of-a-layer-{flag}"):
            path = world.root / name
            if name.startswith("made"):
                path.write_bytes(b"made")
            before = path.stat()
            found.append((name, chattr(f"+{flag}", path)))
            after = path.stat()
            found.append((before.st_ctime_ns != after.st_ctime_ns, before.st_mtime_ns != after.st_mtime_ns))
            with open(path, "rb", buffering=0) as reader:  # passed through to a reader already
                reader.read(1)
                found.append(tried(path))
            found.append(tried(path))
            chattr(f"-{flag}", path)
    return found


@pytest.mark.parametrize("options", OPTIONS)
def test_files_that_are_append_only_or_immutable_are_as_on_overlayfs(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    found = []
    for mount in (World.mount_overlay, World.mount):
        world = make_world(options=options)
        for flag in ("a", "i"):
            (world.layers[0] / f"of-a-layer-{flag}").write_bytes(b"of a layer")
        mount(world)
        found.append(outcomes(world))
    assert found[1] == found[0]
