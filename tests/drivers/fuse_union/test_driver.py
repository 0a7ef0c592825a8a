"""The driver's hooks: options, records, and what the upper directory tells."""

from __future__ import annotations

import os

import plugengine_fuse_union as driver

from plugengine.model import Host, HostPath, Upper, decode, encode
from plugengine.model import Server as ModelServer
from plugengine.trees.upper import changes
from tests.drivers.fuse_union.world import World


def test_this_host_is_supported() -> None:
    host = Host(root=HostPath("/"), run_root=HostPath("/run"), kernel=(6, 1))
    assert list(driver.pe_storage_probe(host)) == []


def test_an_old_kernel_is_named_as_the_reason() -> None:
    host = Host(root=HostPath("/"), run_root=HostPath("/run"), kernel=(4, 19))
    assert list(driver.pe_storage_probe(host)) == ["Linux 5.4 or newer is needed, this is 4.19"]


def test_a_root_that_cannot_hold_whiteouts_is_named_as_the_reason(world: World) -> None:
    world.mount_overlay()
    host = Host(root=HostPath(f"{world.root}/not/yet"), run_root=HostPath("/run"), kernel=(6, 1))
    (reason,) = driver.pe_storage_probe(host)
    assert reason.startswith(f"{world.root} is on overlayfs")


def test_preparing_twice_keeps_what_was_written(world: World) -> None:
    world.mount()
    (world.root / "new").write_text("kept")
    world.remount()
    assert (world.root / "new").read_text() == "kept"


def test_the_root_has_the_owner_and_mode_of_the_image_and_keeps_its_own_later(world: World) -> None:
    os.chown(world.layers[0], 3, 4)
    world.layers[0].chmod(0o1750)
    world.mount()
    status = world.root.stat()
    assert (status.st_uid, status.st_gid, oct(status.st_mode)) == (3, 4, "0o41750")
    world.root.chmod(0o700)
    world.remount()
    assert oct(world.root.stat().st_mode) == "0o40700"


def test_changes_and_usage_come_from_the_upper_directory(world: World) -> None:
    world.mount()
    record = driver.pe_storage_prepare(world.request)
    (world.root / "new").write_bytes(b"x" * 10_000)
    (world.root / "file").unlink()
    (world.root / "dir" / "a").write_text("changed")
    upper = driver.pe_storage_upper(world.request, record)
    assert upper == Upper(directory=HostPath(str(world.upper)))
    found = {(change.path, change.kind) for change in changes(upper.directory, world.request.chain)}
    assert {("/new", "A"), ("/file", "D"), ("/dir/a", "C")} <= found
    assert driver.pe_storage_usage(world.request, record).size_bytes >= 10_000


def test_the_record_and_the_server_survive_json(world: World) -> None:
    record = driver.pe_storage_prepare(world.request)
    server = driver.pe_storage_mounts(world.request, record).server
    assert decode(ModelServer, encode(server)) == server


def test_removing_leaves_nothing_and_may_be_repeated(world: World) -> None:
    world.mount()
    (world.root / "new").mkdir()
    world.unmount()
    record = driver.pe_storage_prepare(world.request)
    driver.pe_storage_remove(world.request, record)
    assert os.listdir(world.request.directory) == []
    driver.pe_storage_remove(world.request, None)
