"""What is seen of a file while and after it is changed, in every way and by everybody, is what overlayfs shows."""

from __future__ import annotations

import ast
import mmap
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plugengine_fuse_union as driver
import pytest
from plugengine_fuse_union import protocol

from plugengine.kernel.capabilities import CAPABILITIES
from plugengine.kernel.credentials import capget, capset
from tests.drivers.fuse_union.attempts import as_user, attempt
from tests.drivers.fuse_union.changes import CHANGES, looks, make
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World

MODES = (0o666, 0o6777, 0o2767)  # the last makes nobody run as another: who is of the group keeps the bit
Seen = dict[str, str]


def as_root(call: Callable[[], Any]) -> Any:
    return repr(attempt(call)).encode()


def as_root_without_fsetid(call: Callable[[], Any]) -> Any:
    def without() -> Any:
        effective, permitted, inheritable = capget()
        capset(effective & ~(1 << CAPABILITIES["CAP_FSETID"]), permitted, inheritable)
        return call()

    return as_user(0, without)


def as_somebody(call: Callable[[], Any]) -> Any:
    return as_user(2002, call)


WHO: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "root": as_root,
    "root without CAP_FSETID": as_root_without_fsetid,
    "somebody": as_somebody,
}


def seen(world: World, mount: Callable[[], object]) -> Seen:
    """Do every change to a new file and to one of the layer, of each mode, by everybody; return what they saw."""
    for name in CHANGES:
        for who in WHO:
            for mode in MODES:
                make(world.layers[0] / name / who / f"{mode:o}")
    world.base.parent.chmod(0o755)
    mount()
    found: Seen = {}
    for who, become in WHO.items():
        for mode in MODES:
            paths = prepare(world.root, who, mode)
            saw = become(lambda: [looks(path, CHANGES[name]) for name, path in paths]).decode()  # noqa: B023
            for (name, path), each in zip(paths, ast.literal_eval(saw), strict=True):
                kind = "new" if path.parent.name == "upper" else "of a layer"
                found[f"{name}, {kind}, {mode:o}, by {who}"] = str(each)
    return found


def prepare(root: Path, who: str, mode: int) -> list[tuple[str, Path]]:
    """Make the new files, and give all their mode; return them with the name of the change they are for."""
    paths = []
    for name in CHANGES:
        lower = root / name / who / f"{mode:o}"
        make(lower / "upper")
        paths += [(name, lower / "upper" / "file"), (name, lower / "file")]
    for _, path in paths:
        path.chmod(mode)
    return paths


@pytest.fixture(scope="module")
def expected() -> Iterator[Seen]:
    base = Path(tempfile.mkdtemp(prefix="pe-fu-"))
    world = World(base / "o")
    yield seen(world, world.mount_overlay)
    world.close()
    shutil.rmtree(base)


def differing(found: Seen, expected: Seen) -> dict[str, tuple[str, str]]:
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}


def test_a_change_is_seen_at_once_where_the_kernel_writes_by_itself(make_world: MakeWorld, expected: Seen) -> None:
    world = make_world()
    assert differing(seen(world, world.mount), expected) == {}


@pytest.mark.parametrize(
    "server",
    [
        pytest.param({"without": protocol.FUSE_PASSTHROUGH}, id="7.45"),
        pytest.param({"without": protocol.FUSE_PASSTHROUGH, "minor": 31}, id="7.31"),
    ],
)
def test_a_change_is_seen_at_once_where_it_is_served_except_what_a_mapping_still_holds(
    make_world: MakeWorld, expected: Seen, server: dict[str, int]
) -> None:
    world = make_world(server=server)
    different = differing(seen(world, world.mount), expected)
    # Before 7.33 the kernel clears the bits by itself, and setgid only of what a group may execute.
    known = re.compile("map_for_long|.* 2767, by somebody" if "minor" in server else "map_for_long")
    assert [name for name in different if not known.match(name)] == []


def test_attributes_are_asked_for_only_while_something_may_change_them(make_world: MakeWorld) -> None:
    world = make_world().mount()
    path = world.root / "file"
    with open(path, "w+b") as stream:
        stream.write(b"data")
        stream.flush()
        assert requests_for(world, path) >= LOOKS
        mapped = mmap.mmap(stream.fileno(), 4)
    assert requests_for(world, path) >= LOOKS
    mapped.close()
    path.stat()
    assert requests_for(world, path) == 0


LOOKS = 50


def requests_for(world: World, path: Path) -> int:
    """Return how many questions for attributes it takes to look at a file again and again."""
    before = driver.pe_storage_stats(world.request, {})["requests_getattr"]
    for _ in range(LOOKS):
        path.stat()
    return driver.pe_storage_stats(world.request, {})["requests_getattr"] - before
