"""A chain is written out once, whoever needs it and whatever interrupts; containers are snapshots of it."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plugengine_btrfs as driver
import pytest
from plugengine_btrfs import bases

from plugengine import mounts
from plugengine.errors import DriverError, NoSpaceError, UsageError
from plugengine.kernel import btrfs
from plugengine.model import Host, HostPath, IdRange, Mount, Record, StorageRequest, UserMap
from plugengine.trees.remove import remove_tree
from tests.drivers.filesystems import Store, is_shared, look, mounted, rich_chain, subvolumes, used
from tests.waiting import eventually

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


def below(store: Store) -> list[str]:
    """Return the subvolumes of one store."""
    return sorted(path for path in subvolumes(store.base.parent) if path.startswith(f"{store.base.name}/"))


def host_of(store: Store) -> Host:
    return Host(root=HostPath(str(store.base)), run_root=HostPath(f"{store.base}/run"), kernel=(6, 1))


def collect(store: Store) -> list[str]:
    return list(driver.pe_storage_gc(host_of(store), frozenset(), HostPath(f"{store.base}/storage/btrfs")))


def test_a_snapshot_is_what_overlayfs_shows_of_the_layers(
    store: Store, in_mount_namespace: InChild, tmp_path: Path
) -> None:
    chain = rich_chain(store)
    request = store.request(*chain)
    record = driver.pe_storage_prepare(request)

    def work() -> None:
        lower = (("lowerdir", ":".join(reversed(chain))),)
        mounts.perform(Mount(fstype="overlay", source="o", target=HostPath(str(tmp_path)), options=lower))
        shown = look(mount(request, record))
        assert shown.entries == look(tmp_path).entries
        assert shown.groups == {("d/other-name", "third-name")}

    in_mount_namespace(work)
    assert (tree(request) / "sparse").stat().st_blocks * 512 < MIB
    assert is_shared(tree(request) / "big")


def test_a_chain_is_written_once_and_a_container_takes_next_to_nothing(store: Store, point: Path) -> None:
    layer = Path(store.layer("big", {f"d/f{number}": "x" * 3000 for number in range(2000)}))
    (layer / "data").write_bytes(os.urandom(32 * MIB))
    before = used(point)
    requests = [store.request(HostPath(str(layer)), name=f"c{number}") for number in range(20)]
    driver.pe_storage_prepare(requests[0])
    began = time.process_time()
    for request in requests[1:]:
        driver.pe_storage_prepare(request)
    each = (time.process_time() - began) / 19
    assert used(point) - before < 24 * MIB  # the small files of the base, which lie in metadata, twice
    assert len([path for path in below(store) if "/bases/" in path]) == 1
    assert each < 1.0
    usage = driver.pe_storage_usage(requests[0], {})
    assert (usage.size_bytes, usage.inodes) == (0, 0)
    (tree(requests[0]) / "d/f3").write_bytes(b"y" * MIB)
    os.sync()
    usage = driver.pe_storage_usage(requests[0], {})
    assert MIB <= usage.size_bytes <= MIB + 65536
    assert usage.inodes == 1
    assert (tree(requests[1]) / "d/f3").read_text() == "x" * 3000


def test_a_base_cannot_be_written_by_mistake(store: Store) -> None:
    driver.pe_storage_prepare(store.request(store.layer("one", {"file": "x"})))
    (base,) = Path(store.base, "storage/btrfs/bases").iterdir()
    with pytest.raises(OSError, match="Read-only file system"):
        (base / "tree/file").write_text("y")


def test_twenty_that_need_a_chain_at_once_share_one_base(store: Store) -> None:
    chain = (store.layer("many", {f"d{number % 7}/f{number}": "x" for number in range(500)}),)
    requests = [store.request(*chain, name=f"c{number}") for number in range(20)]
    pids = []
    for request in requests:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                driver.pe_storage_prepare(request)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 20
    assert len(below(store)) == 21
    assert all(len(look(tree(request)).entries) == 508 for request in requests)
    assert not [name for name in os.listdir(store.base / "storage/btrfs/bases") if name.startswith(".")]


def test_whoever_is_killed_while_writing_leaves_nothing_that_stays(store: Store) -> None:
    chance = random.Random(1)
    layer = store.layer("many", {f"d{number % 7}/f{number}": "x" * number for number in range(1500)})
    cut_short = 0
    for attempt in range(12):
        request = store.request(layer, name=f"c{attempt}")
        pid = os.fork()
        if pid == 0:
            driver.pe_storage_prepare(request)
            os._exit(0)
        time.sleep(chance.random() * 0.12)
        os.kill(pid, signal.SIGKILL)
        cut_short += os.waitpid(pid, 0)[1] == signal.SIGKILL
        bases = store.base / "storage/btrfs/bases"
        remains = os.listdir(bases) if bases.is_dir() else []
        if attempt % 2 or not any(name.startswith(".") for name in remains):
            driver.pe_storage_prepare(request)  # takes over
            assert look(tree(request)).entries == look(layer).entries
            driver.pe_storage_remove(request, {})
            remove_tree(f"{store.base}/storage")  # to be written again
        else:
            driver.pe_storage_remove(request, None)
            assert len(collect(store)) == 1
        assert below(store) == []
    assert cut_short > 3


def test_a_base_goes_with_its_layers_and_not_before(store: Store) -> None:
    first, second = store.layer("first", {"a": "1"}), store.layer("second", {"b": "2"})
    requests = [store.request(first, name="c1"), store.request(first, second, name="c2")]
    for request in requests:
        driver.pe_storage_prepare(request)
    driver.pe_storage_remove(requests[0], {})
    assert collect(store) == []
    assert len(below(store)) == 3
    remove_tree(second)
    (line,) = collect(store)
    assert "layers it was made of are gone" in line
    assert len(below(store)) == 2
    assert (tree(requests[1]) / "b").read_text() == "2"  # a container does not need it


def test_a_layer_made_again_under_its_old_name_is_another_layer(store: Store) -> None:
    layer = store.layer("one", {"file": "old"})
    driver.pe_storage_prepare(store.request(layer))
    remove_tree(layer)
    store.layer("one", {"file": "new"})
    request = store.request(layer, name="c2")
    driver.pe_storage_prepare(request)
    assert (tree(request) / "file").read_text() == "new"
    assert len([path for path in below(store) if "/bases/" in path]) == 1  # the old one went when room was made


def test_collecting_spares_a_base_that_is_being_written(store: Store) -> None:
    place = store.base / "storage/btrfs/bases"
    place.mkdir(parents=True)
    lock = bases._locked(str(place / ".key"))
    btrfs.create_subvolume(lock, "tree")
    assert collect(store) == []
    os.close(lock)
    assert len(collect(store)) == 1
    assert os.listdir(place) == []


def test_preparing_again_keeps_what_is_there_and_removing_twice_is_fine(store: Store) -> None:
    request = store.request(store.layer("one", {"file": "x"}))
    record = driver.pe_storage_prepare(request)
    (tree(request) / "mine").touch()
    assert driver.pe_storage_prepare(request) == record
    assert (tree(request) / "mine").exists()
    for _ in range(2):
        driver.pe_storage_remove(request, record)
    assert os.listdir(request.directory) == []
    assert len(below(store)) == 1


def test_without_a_place_to_share_each_container_has_its_own_base(store: Store) -> None:
    from msgspec.structs import replace

    request = replace(store.request(store.layer("one", {"file": "x"})), shared=HostPath(""))
    record = driver.pe_storage_prepare(request)
    assert (tree(request) / "file").read_text() == "x"
    assert driver.pe_storage_gc(host_of(store), frozenset(), HostPath("")) == []
    driver.pe_storage_remove(request, record)
    assert below(store) == []
    assert os.listdir(request.directory) == []


def fill_with_subvolumes(root: Path) -> None:
    """Do what a container can: subvolumes in subvolumes, snapshots, some protected, some deep down."""
    fd = os.open(root, os.O_RDONLY)
    (root / "deep/er").mkdir(parents=True)
    deep = os.open(root / "deep/er", os.O_RDONLY)
    btrfs.create_subvolume(deep, "outer")
    outer = os.open(root / "deep/er/outer", os.O_RDONLY)
    (root / "deep/er/outer/file").write_text("x")
    btrfs.create_subvolume(outer, "inner")
    inner = os.open(root / "deep/er/outer/inner", os.O_RDONLY)
    (root / "deep/er/outer/inner/file").write_text("x")
    btrfs.create_snapshot(fd, fd, "of-all", read_only=True)
    btrfs.create_snapshot(outer, deep, "of-outer", read_only=True)
    btrfs.set_read_only(inner, read_only=True)
    btrfs.set_read_only(outer, read_only=True)
    for each in (fd, deep, outer, inner):
        os.close(each)


def test_subvolumes_a_container_made_go_with_it(store: Store) -> None:
    request = store.request(store.layer("one", {"file": "x"}))
    record = driver.pe_storage_prepare(request)
    fill_with_subvolumes(tree(request))
    assert len(below(store)) == 6
    driver.pe_storage_remove(request, record)
    assert len(below(store)) == 1
    assert os.listdir(request.directory) == []


def test_the_core_can_remove_a_container_whose_driver_is_gone(store: Store) -> None:
    request = store.request(store.layer("one", {"file": "x"}))
    driver.pe_storage_prepare(request)
    fill_with_subvolumes(tree(request))
    remove_tree(f"{store.base}/containers")
    remove_tree(f"{store.base}/storage")
    assert below(store) == []


def test_a_plain_directory_in_place_of_the_snapshot_is_removed_too(store: Store) -> None:
    request = store.request()
    (tree(request) / "restored/by").mkdir(parents=True)  # a backup program, say, that knows no subvolumes
    driver.pe_storage_remove(request, {})
    assert os.listdir(request.directory) == []


def test_owners_are_mapped_for_a_user_namespace(store: Store, in_mount_namespace: InChild) -> None:
    request = store.request(*rich_chain(store), user_map=MAP)
    record = driver.pe_storage_prepare(request)

    def work() -> list[list[int]]:
        root = mount(request, record)
        return [[os.lstat(root / name).st_uid, os.lstat(root / name).st_gid] for name in ("setuid", "link", ".")]

    assert in_mount_namespace(work) == [[101_000, 201_001], [100_005, 200_006], [100_000, 200_000]]
    assert stat.S_IMODE(os.lstat(tree(request) / "setuid").st_mode) == 0o6755
    plain = store.request(*request.chain, name="c2")
    driver.pe_storage_prepare(plain)
    assert len(below(store)) == 3  # with a map or without, the base is the same


def test_a_missing_layer_is_named_and_nothing_is_left(store: Store) -> None:
    request = store.request(HostPath(f"{store.base}/layers/nowhere"))
    with pytest.raises(DriverError, match="layers/nowhere: no such file or directory"):
        driver.pe_storage_prepare(request)
    assert os.listdir(request.directory) == []
    assert below(store) == []


def test_a_full_filesystem_is_said_to_be_full_and_nothing_is_left(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path, size=128 * MIB) as point, mounted("ext4", tmp_path, size=256 * MIB) as other:
        store = Store(point / "store", "btrfs")
        layer = Path(other / "layer")
        layer.mkdir()
        (layer / "data").write_bytes(os.urandom(160 * MIB))
        request = store.request(HostPath(str(layer)))
        with pytest.raises(NoSpaceError, match="no space left on device"):
            driver.pe_storage_prepare(request)
        assert os.listdir(request.directory) == []
        assert below(store) == []
        assert os.listdir(point / "store/storage/btrfs/bases") == []


def test_a_limit_holds_for_what_the_container_adds_and_its_group_goes_with_it(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as point:
        store = Store(point / "store", "btrfs")
        layer = Path(store.layer("big"))
        (layer / "data").write_bytes(os.urandom(32 * MIB))
        limited = store.request(HostPath(str(layer)), name="c1", options={"size": "8m"})
        free = store.request(HostPath(str(layer)), name="c2")
        records = [driver.pe_storage_prepare(request) for request in (limited, free)]
        (tree(limited) / "fits").write_bytes(os.urandom(5 * MIB))
        with pytest.raises(OSError, match="Disk quota exceeded"):
            _write_out(tree(limited) / "too-much", 8 * MIB)
        _write_out(tree(free) / "much", 16 * MIB)
        for request, record in zip((limited, free), records, strict=True):
            driver.pe_storage_remove(request, record)
        remove_tree(str(layer))

        def nothing_is_left() -> bool:
            os.system(f"btrfs subvolume sync {point} >/dev/null")
            return not collect(store) and not os.listdir(store.base / "storage/btrfs/limits")

        eventually(nothing_is_left)
        shown = subprocess.run(["btrfs", "qgroup", "show", point], check=True, capture_output=True, text=True).stdout
        assert [line.split()[0] for line in shown.splitlines() if line.startswith("0/")] == ["0/5"]


def _write_out(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())


@pytest.mark.parametrize("size", ["much", "-1m", "1x", "12", "0", "1mm", "."])
def test_a_size_that_makes_no_sense_is_refused(store: Store, size: str) -> None:
    with pytest.raises(UsageError, match="option size="):
        store.request(options={"size": size})


def test_the_probe_says_what_to_do_where_there_is_no_btrfs(tmp_path: Path, point: Path) -> None:
    (reason,) = driver.pe_storage_probe(Host(root=HostPath(f"{tmp_path}/new"), run_root=HostPath("/x"), kernel=(6, 1)))
    assert reason.endswith("is not on btrfs: put --root on such a filesystem (mkfs.btrfs makes one)")
    assert driver.pe_storage_probe(Host(root=HostPath(f"{point}/new"), run_root=HostPath("/x"), kernel=(6, 1))) == []
