"""The same random operations on fuse_union and on the kernel's overlayfs must have the same results."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.pictures import OLD_NS, picture
from tests.drivers.fuse_union.steps import STEPS, Actor, Step
from tests.drivers.fuse_union.world import World

# More are tried by hand: PE_EXAMPLES=1000.
EXAMPLES = int(os.environ.get("PE_EXAMPLES", "40"))
VARIANTS = [
    pytest.param({"options": {"passthrough": "auto"}}, id="passthrough"),
    pytest.param({"options": {"redirect_dir": "follow"}}, id="exchanged"),
    pytest.param({"options": {"redirect_dir": "follow", "passthrough": "off"}}, id="exchanged and served"),
    pytest.param({"options": {"passthrough": "off"}}, id="served"),
    pytest.param({"server": {"without": -1}, "options": {"passthrough": "off"}}, id="oldest kernel"),
    pytest.param({"server": {"directories": 1, "nodes": 3, "backed": 1}}, id="starved"),
    pytest.param({"options": {"size": "1g"}}, id="counted"),
]
# Where a step is done; another process shares what is held open.
PLACES = st.sampled_from([*["here"] * 4, "other process"])


def fill(world: World) -> None:
    """Put the same things into the layers: merged and opaque directories, whiteouts, links, types that differ."""
    low, middle, top = world.layers
    (low / "d" / "d").mkdir(parents=True)
    (low / "d" / "a").write_text("low d/a")
    (low / "d" / "b").write_text("low d/b")
    (low / "d" / "d" / "e").write_text("low d/d/e")
    (low / "a").write_text("low a" * 1000)
    os.link(low / "a", low / "c")
    (low / "e").mkdir()
    (low / "e" / "a").write_text("low e/a")
    (middle / "d").mkdir()
    os.mknod(middle / "d" / "b", 0o020000, 0)
    (middle / "d" / "\udcff").symlink_to("a")
    (middle / "e").mkdir()
    os.setxattr(middle / "e", "trusted.overlay.opaque", b"y")
    (middle / "e" / "b").write_text("middle e/b")
    (top / "d").mkdir()
    os.setxattr(top / "d", "user.x", b"of the layer")
    (top / "d" / "a").write_text("top d/a")
    os.chown(top / "d" / "a", 1, 1)
    os.chmod(top / "d" / "a", 0o4755)
    os.mknod(top / "b", 0o010644)
    for layer in world.layers:
        for directory, names, files in os.walk(layer, topdown=False):
            for name in (*names, *files):
                os.utime(Path(directory, name), ns=(OLD_NS // 2, OLD_NS // 2), follow_symlinks=False)
        os.utime(layer, ns=(OLD_NS // 2, OLD_NS // 2))


class Pair:
    """Two worlds with the same layers, one mounted by fuse_union and one by overlayfs, and who acts on each."""

    def __init__(self, ours: World, theirs: World) -> None:
        self.ours, self.theirs = ours, theirs
        self.actors = [Actor(str(world.root)) for world in (ours, theirs)]

    def mount(self) -> None:
        self.ours.mount()
        self.theirs.mount_overlay()

    def unmount(self) -> None:
        self.let_go()
        self.ours.unmount()
        self.theirs.unmount()

    def let_go(self) -> None:
        """Close what is held open."""
        for actor in self.actors:
            actor.close()

    def exchange(self) -> None:
        """Let each go on with the directories that the other has written."""
        self.unmount()
        self.ours, self.theirs, self.actors = self.theirs, self.ours, self.actors[::-1]
        self.mount()

    def do(self, step: Step, *, elsewhere: bool = False) -> None:
        """Do a step on both, with the same result."""
        if step.call == "remount":
            self.let_go()
            self.ours.remount()
            self.theirs.remount()
        else:
            results = [actor.do_elsewhere(step) if elsewhere else actor.do(step) for actor in self.actors]
            assert results[0] == results[1], step

    def assert_same(self, when: str) -> None:
        assert picture(str(self.ours.root)) == picture(str(self.theirs.root)), when

    def assert_same_under_overlayfs(self) -> None:
        """Compare once more with our upper directory mounted by overlayfs, and look for complaints."""
        self.let_go()
        self.ours.unmount()
        self.ours.mount_overlay()
        self.assert_same("our upper under overlayfs")
        assert self.ours.complaints == ""


@contextmanager
def mounted_pair(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Pair]:
    """Fill and mount a pair, of worlds made with these arguments."""
    base = Path(tempfile.mkdtemp(prefix="pe-fu-"))
    pair = Pair(World(base / "f", layers=3, **ours), World(base / "o", layers=3, **theirs))
    try:
        for world in (pair.ours, pair.theirs):
            fill(world)
        pair.mount()
        yield pair
    finally:
        pair.unmount()
        shutil.rmtree(base)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(STEPS, PLACES), min_size=5, max_size=40))
def test_results_and_trees_are_those_of_overlayfs(variant: dict[str, Any], steps: list[tuple[Step, str]]) -> None:
    exchanged = "redirect_dir" in variant.get("options", {})
    with mounted_pair(variant, variant) as pair:
        for step, place in steps:
            elsewhere = place == "other process"
            if step.call == "remount" and exchanged and elsewhere:
                pair.exchange()
            else:
                pair.do(step, elsewhere=elsewhere)
        pair.assert_same("before a remount")
        pair.let_go()
        pair.ours.remount()
        pair.assert_same("after a remount")
        pair.assert_same_under_overlayfs()


def test_what_many_processes_did_at_once_is_the_same_after_a_remount(make_world: MakeWorld) -> None:
    world = make_world(layers=3)
    fill(world)
    world.mount()
    children = []
    for seed in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                act_at_random(str(world.root), seed)
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    # A test of the server's state, so look at it before anything is forgotten.
    before = picture(str(world.root))
    world.remount()
    assert picture(str(world.root)) == before
    world.unmount()
    assert picture(str(world.mount_overlay().root)) == before


def act_at_random(root: str, seed: int) -> None:
    """Rename, write, link, remove … in one small set of names, without looking what is there."""
    chance = random.Random(seed)
    actor = Actor(root)
    for _ in range(1500):
        first, second = ("/".join(chance.choices("abcde", k=chance.randint(1, 3))) for _ in range(2))
        step = chance.choice(
            [
                Step("write", (first, bytes([seed]) * 100, 0)),
                Step("write", (first, b"x" * 9000, 100)),
                Step("rewrite", (first, b"new")),
                Step("rename", (first, second, 0)),
                Step("rename", (first, second, 0)),
                Step("rename", (first, second, 2)),
                Step("mkdir", (first, 0o755)),
                Step("unlink", (first,)),
                Step("rmdir", (first,)),
                Step("link", (first, second)),
                Step("chmod", (first, 0o640)),
                Step("symlink", (first, second)),
                Step("listdir", (first,)),
                Step("hold", (seed % 3, first)),
                Step("hold_reading", (seed % 3, first)),
                Step("write_held", (seed % 3, b"held")),
            ]
        )
        actor.do(step)
    actor.close()
