"""A copy is what the kernel's overlayfs would show, complete or not there, and shares what the filesystem lets it."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plugengine_vfs as driver
import pytest

from plugengine import mounts
from plugengine.errors import DriverError, NoSpaceError
from plugengine.model import Host, HostPath, IdRange, Mount, Record, StorageRequest, UserMap
from tests.drivers.filesystems import Store, is_shared, look, mounted, rich_chain, used

InChild = Callable[[Callable[[], Any]], Any]
MAP = UserMap(uids=(IdRange(guest=0, host=100_000, size=65_536),), gids=(IdRange(guest=0, host=200_000, size=65_536),))
MIB = 1 << 20


def tree(request: StorageRequest) -> Path:
    return Path(request.directory, "root")


def mount(request: StorageRequest, record: Record) -> Path:
    """Mount as the monitor does; only in a namespace of one's own."""
    for each in driver.pe_storage_mounts(request, record).mounts:
        mounts.perform(each)
    return Path(request.target)


def test_the_copy_is_what_overlayfs_shows_of_the_layers(
    store: Store, in_mount_namespace: InChild, tmp_path: Path
) -> None:
    chain = rich_chain(store)
    request = store.request(*chain)
    driver.pe_storage_prepare(request)

    def work() -> None:
        lower = ":".join(reversed(chain))
        mounts.perform(
            Mount(fstype="overlay", source="o", target=HostPath(str(tmp_path)), options=(("lowerdir", lower),))
        )
        assert look(tree(request)).entries == look(tmp_path).entries

    in_mount_namespace(work)
    shown = look(tree(request)).entries
    assert len(shown) > 40
    assert not {"gone", "never-was", "d/hidden", "d/deep/er", "turned/again", "n1"} & shown.keys()


def test_hard_links_within_a_layer_are_kept_where_both_names_show(store: Store) -> None:
    chain = rich_chain(store)
    request = store.request(chain[0])
    driver.pe_storage_prepare(request)
    assert look(tree(request)).groups == {("d/other-name", "plain", "third-name")}
    above = store.request(*chain, name="c2")
    driver.pe_storage_prepare(above)
    assert look(tree(above)).groups == {("d/other-name", "third-name")}  # the layer above has a `plain` of its own
    assert (tree(above) / "plain").read_text() == "changed"


def test_holes_stay_holes(store: Store) -> None:
    request = store.request(*rich_chain(store))
    driver.pe_storage_prepare(request)
    assert (tree(request) / "sparse").stat().st_blocks * 512 < MIB


def test_blocks_are_shared_where_the_filesystem_can(store: Store, point: Path) -> None:
    layer = Path(store.layer("big"))
    for number in range(8):
        (layer / f"f{number}").write_bytes(os.urandom(8 * MIB))
    before = used(point)
    request = store.request(HostPath(str(layer)))
    driver.pe_storage_prepare(request)
    taken = used(point) - before
    usage = driver.pe_storage_usage(request, {})
    assert usage.inodes == 8
    if point.name == "ext4":
        assert taken >= 64 * MIB
        assert usage.size_bytes >= 64 * MIB
        return
    assert taken < 4 * MIB
    assert usage.size_bytes < MIB
    assert all(is_shared(tree(request) / f"f{number}") for number in range(8))
    (tree(request) / "f0").write_bytes(b"x" * 2 * MIB)
    os.sync()
    assert 2 * MIB <= driver.pe_storage_usage(request, {}).size_bytes < 3 * MIB
    assert (layer / "f0").stat().st_size == 8 * MIB


def test_layers_and_neighbours_do_not_see_what_a_container_writes(store: Store, in_mount_namespace: InChild) -> None:
    layer = store.layer("one", {"file": "old", "other": "old"})
    requests = [store.request(layer, name=name) for name in ("c1", "c2")]
    records = [driver.pe_storage_prepare(request) for request in requests]

    def work() -> list[str]:
        first, second = (mount(request, record) for request, record in zip(requests, records, strict=True))
        (first / "file").write_text("new")
        (first / "other").unlink()
        return [(second / "file").read_text(), (second / "other").read_text()]

    assert in_mount_namespace(work) == ["old", "old"]
    assert Path(layer, "file").read_text() == "old"


def test_owners_are_mapped_for_a_user_namespace_and_stored_as_in_the_image(
    store: Store, in_mount_namespace: InChild
) -> None:
    request = store.request(*rich_chain(store), user_map=MAP)
    record = driver.pe_storage_prepare(request)
    assert record == {"owners": "mount"}

    def work() -> list[list[int]]:
        root = mount(request, record)
        shown = [[os.lstat(root / name).st_uid, os.lstat(root / name).st_gid] for name in ("setuid", "link", ".")]
        at = os.open(root, os.O_RDONLY)  # the way there is closed to others
        os.setegid(200_000)
        os.seteuid(100_000)
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        os.seteuid(0)
        return [*shown, [os.stat(root / "made").st_uid, os.stat(root / "made").st_gid]]

    expected = [[101_000, 201_001], [100_005, 200_006], [100_000, 200_000], [100_000, 200_000]]
    assert in_mount_namespace(work) == expected
    assert os.lstat(tree(request) / "setuid").st_uid == 1000
    assert os.lstat(tree(request) / "made").st_uid == 0
    assert stat.S_IMODE(os.lstat(tree(request) / "setuid").st_mode) == 0o6755


def test_a_read_only_root_cannot_be_written(store: Store, in_mount_namespace: InChild) -> None:
    request = store.request(store.layer("one", {"file": "x"}), read_only=True)
    record = driver.pe_storage_prepare(request)

    def work() -> bool:
        root = mount(request, record)
        with pytest.raises(OSError, match="Read-only file system"):
            (root / "new").touch()
        return (root / "file").exists()

    assert in_mount_namespace(work)


def test_a_container_without_layers_has_an_empty_root(store: Store) -> None:
    request = store.request()
    driver.pe_storage_prepare(request)
    assert os.listdir(tree(request)) == []
    assert stat.S_IMODE(tree(request).stat().st_mode) == 0o755


def test_preparing_again_keeps_what_is_there_and_removing_twice_is_fine(store: Store) -> None:
    request = store.request(store.layer("one", {"file": "x"}))
    record = driver.pe_storage_prepare(request)
    (tree(request) / "mine").touch()
    assert driver.pe_storage_prepare(request) == record
    assert (tree(request) / "mine").exists()
    for _ in range(2):
        driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []


@pytest.mark.parametrize("delay", [0.002, 0.01, 0.03])
def test_a_copy_that_was_cut_short_is_made_anew(store: Store, delay: float) -> None:
    layer = store.layer("many", {f"d{number % 7}/f{number}": "x" * number for number in range(1500)})
    request = store.request(layer)
    pid = os.fork()
    if pid == 0:
        driver.pe_storage_prepare(request)
        os._exit(0)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    driver.pe_storage_prepare(request)
    assert look(tree(request)).entries == look(layer).entries
    assert os.listdir(request.directory) == ["root"]


def test_what_was_cut_short_is_removed_too(store: Store) -> None:
    request = store.request(store.layer("one", {"file": "x"}))
    (Path(request.directory) / "unfinished/deep/er").mkdir(parents=True)
    driver.pe_storage_remove(request, None)
    assert os.listdir(request.directory) == []


def test_a_missing_layer_is_named_and_nothing_is_left(store: Store) -> None:
    request = store.request(HostPath(f"{store.base}/layers/nowhere"))
    with pytest.raises(DriverError, match="layers/nowhere: no such file or directory"):
        driver.pe_storage_prepare(request)
    assert os.listdir(request.directory) == []


def test_a_full_filesystem_is_said_to_be_full_and_nothing_is_left(tmp_path: Path) -> None:
    with mounted("ext4", tmp_path, size=24 * MIB) as point:
        store = Store(point / "store", "vfs")
        layer = Path(store.layer("big"))
        (layer / "data").write_bytes(os.urandom(14 * MIB))
        request = store.request(HostPath(str(layer)))
        with pytest.raises(NoSpaceError, match="no space left on device"):
            driver.pe_storage_prepare(request)
        assert os.listdir(request.directory) == []


@pytest.mark.parametrize("option", ["noexec", "nosuid", "nodev", "ro"])
def test_the_probe_says_which_mount_option_is_in_the_way(
    tmp_path: Path, in_mount_namespace: InChild, option: str
) -> None:
    def work() -> list[str]:
        mounts.perform(Mount(fstype="tmpfs", source="t", target=HostPath(str(tmp_path))))
        os.system(f"mount -o remount,{option} {tmp_path}")
        root = HostPath(f"{tmp_path}/root/of/engine")
        return driver.pe_storage_probe(Host(root=root, run_root=root, kernel=(6, 1)))

    (reason,) = in_mount_namespace(work)
    assert f"mounted {'read-only' if option == 'ro' else option}" in reason
