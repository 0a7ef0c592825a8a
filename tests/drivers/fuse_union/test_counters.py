"""What a running server tells of itself: requests, what it kept at hand, bytes, and its memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import plugengine_fuse_union as driver
import pluggy
import pytest

from plugengine.hookmarks import PROJECT
from plugengine.hookspecs import StorageSpec
from plugengine.plugins.drivers import StorageDriver
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World

MIB = 1 << 20


def stats(world: World) -> dict[str, int]:
    return dict(driver.pe_storage_stats(world.request, {}))


def test_requests_are_counted_by_opcode(world: World) -> None:
    world.mount()
    before = stats(world)
    for number in range(5):
        (world.root / f"new{number}").mkdir()
    os.statvfs(world.root)
    after = stats(world)
    assert after["requests_mkdir"] - before.get("requests_mkdir", 0) == 5
    assert after["requests_statfs"] - before.get("requests_statfs", 0) == 1
    named = [name for name in after if name.startswith("requests_") and name != "requests_answered"]
    assert after["requests"] == sum(after[name] for name in named)
    assert after["requests_answered"] <= after["requests"]


def test_what_the_kernel_keeps_makes_no_request(world: World) -> None:
    world.mount()
    (world.root / "file").stat()
    before = stats(world)
    for _ in range(100):
        (world.root / "file").stat()
    assert stats(world)["requests"] == before["requests"]


def test_opens_passed_through_and_answers_at_hand_are_counted(world: World) -> None:
    world.mount()
    for _ in range(10):
        assert (world.root / "file").read_text() == "file of the layer\n"
    found = stats(world)
    assert found["passthrough_opens"] == 10
    assert found["cache_hits"] >= 9
    assert found["read_bytes"] == 0


def test_a_tree_read_over_and_over_is_at_hand_as_long_as_its_files_are_known(world: World) -> None:
    names = [f"many/{number}" for number in range(6_000)]
    (world.layers[0] / "many").mkdir()
    for name in names:
        (world.layers[0] / name).touch()
    world.mount()
    for turn in range(2):
        before = stats(world)
        for name in names:
            os.close(os.open(world.root / name, os.O_RDONLY))
        assert (stats(world)["cache_hits"] - before["cache_hits"] >= len(names)) == bool(turn)


def test_a_listing_after_a_look_at_each_file_leaves_nothing_to_ask(world: World) -> None:
    names = [f"many/{number}" for number in range(200)]
    (world.layers[0] / "many").mkdir()
    for name in names:
        (world.layers[0] / name).write_text(name)
    world.mount()
    found = {name: (world.root / name).stat() for name in names}
    (world.root / names[0]).read_text()  # changes its time of access, as far as the kernel can tell
    with os.scandir(world.root / "many") as entries:
        assert sorted(entry.inode() for entry in entries) == sorted(each.st_ino for each in found.values())
    before = stats(world)
    assert before["requests_readdirplus"] > 0
    for name, expected in found.items():
        seen = (world.root / name).stat()
        assert (seen.st_ino, seen.st_size) == (expected.st_ino, expected.st_size)
    assert stats(world).get("requests_getattr", 0) == before.get("requests_getattr", 0)
    assert stats(world)["requests_lookup"] == before["requests_lookup"]


def test_bytes_served_are_counted_without_passthrough(make_world: MakeWorld) -> None:
    world = make_world(options={"passthrough": "off"})
    (world.layers[0] / "file").write_bytes(bytes(MIB))
    world.mount()
    (world.root / "file").read_bytes()
    (world.root / "new").write_bytes(bytes(2 * MIB))
    found = stats(world)
    assert found["read_bytes"] == MIB
    assert found["written_bytes"] == 2 * MIB
    assert found["passthrough_opens"] == 0


def test_the_memory_told_is_the_servers(world: World) -> None:
    world.mount()
    with open(f"/proc/{world.pid}/status") as status:
        resident = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))
    assert stats(world)["rss_bytes"] == pytest.approx(resident, rel=0.2)


def test_counting_starts_again_with_each_mount_and_a_server_that_ended_tells_nothing(world: World) -> None:
    world.mount()
    for number in range(20):
        (world.root / f"new{number}").mkdir()
    first = stats(world)
    world.remount()
    assert stats(world).get("requests_mkdir", 0) < first["requests_mkdir"]
    os.kill(world.pid, signal.SIGKILL)
    world.unmount()
    assert stats(world) == {}


def test_a_note_of_another_process_or_with_nonsense_tells_nothing(world: World) -> None:
    note = Path(world.request.directory) / "server"
    for text in ("", "x y z", f"{os.getpid()} 1 0", "4194305 1 3"):
        note.write_text(text)
        assert stats(world) == {}


def test_a_driver_that_keeps_no_counters_has_none(world: World) -> None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(StorageSpec)
    manager.register(_Plain())
    assert StorageDriver(manager, "plain").stats(world.request, {}) == {}


class _Plain:
    """A driver without the optional hook."""

    pe_storage_info = staticmethod(driver.pe_storage_info)
