"""A mount namespace for these tests, and worlds that are taken down after each."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWNS, setns, unshare
from tests.conftest import need, need_root
from tests.drivers.fuse_union.world import World

MakeWorld = Callable[..., World]


def as_user(uid: int, act: Callable[[], object]) -> None:
    """Do something in a child that has become an ordinary user; its exception is this process's failure."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - the last frame of this process
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture(scope="module", autouse=True)
def _private_mounts() -> Iterator[None]:
    """Enter a mount namespace of our own, and come back: nothing of it is seen by other tests."""
    need_root()
    need(None if Path("/dev/fuse").exists() else "needs /dev/fuse")
    home, here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC), os.getcwd()
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    try:
        yield
    finally:
        setns(home, CLONE_NEWNS)
        os.close(home)
        os.chdir(here)  # setns(2) went to the root


@pytest.fixture
def make_world() -> Iterator[MakeWorld]:
    """Make worlds in a directory with a short name; their servers must not have complained."""
    base = Path(tempfile.mkdtemp(prefix="pe-fu-"))
    worlds: list[World] = []

    def make(**kwargs: Any) -> World:
        world = World(base / str(len(worlds)), **kwargs)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()
    complaints = "".join(world.complaints for world in worlds)
    shutil.rmtree(base)
    assert complaints == ""


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """One layer with a few files, not mounted yet."""
    world = make_world()
    layer = world.layers[0]
    (layer / "dir" / "sub").mkdir(parents=True)
    (layer / "dir" / "a").write_text("a of the layer\n")
    (layer / "dir" / "sub" / "deep").write_text("deep\n")
    (layer / "file").write_text("file of the layer\n")
    (layer / "link").symlink_to("file")
    return world


@pytest.fixture(autouse=True)
def umask_kept() -> Iterator[None]:
    """A union opened in this process takes the umask away, as its server does; other tests need theirs."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)
