"""Very many layers, and very many entries of a directory."""

from __future__ import annotations

import os

import pytest

from tests.drivers.fuse_union.conftest import MakeWorld

LAYERS = 500
ENTRIES = 100_000


def test_five_hundred_layers_are_one_tree(make_world: MakeWorld) -> None:
    world = make_world(layers=LAYERS)
    for number, layer in enumerate(world.layers):
        (layer / "d").mkdir()
        (layer / "d" / f"of-{number}").write_text(str(number))
        (layer / "d" / "in-all").write_text(str(number))
    os.mknod(world.layers[400] / "d" / "of-7", 0o020000)
    world.mount()
    expected = sorted({"in-all", *(f"of-{number}" for number in range(LAYERS))} - {"of-7"})
    assert sorted(os.listdir(world.root / "d")) == expected
    assert (world.root / "d" / "in-all").read_text() == str(LAYERS - 1)
    assert (world.root / "d" / "of-0").read_text() == "0"
    with (world.root / "d" / "of-0").open("a") as stream:
        stream.write("+")
    (world.root / "d").rename(world.root / "moved")
    world.remount()
    assert sorted(os.listdir(world.root / "moved")) == expected
    assert (world.root / "moved" / "of-0").read_text() == "0+"
    assert len(os.listdir(f"/proc/{world.pid}/fd")) < 3 * LAYERS


@pytest.mark.slow
def test_a_directory_of_a_hundred_thousand_entries_is_listed_changed_and_removed_from(make_world: MakeWorld) -> None:
    world = make_world(layers=2)
    for number in range(ENTRIES):
        os.mknod(world.layers[number % 2] / f"entry-{number}", 0o100644)
    world.mount()
    assert set(os.listdir(world.root)) == {f"entry-{number}" for number in range(ENTRIES)}
    for number in range(0, ENTRIES, 1000):
        (world.root / f"entry-{number}").unlink()
        (world.root / f"fresh-{number}").touch()
    expected = {f"entry-{number}" for number in range(ENTRIES) if number % 1000}
    expected |= {f"fresh-{number}" for number in range(0, ENTRIES, 1000)}
    listed = [entry.name for entry in os.scandir(world.root)]
    assert len(listed) == ENTRIES
    assert set(listed) == expected
    world.remount()
    assert set(os.listdir(world.root)) == expected
