"""Many processes at once, death at any moment, full and read-only disks: nothing lost, nothing left."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugengine.errors import NoSpaceError, PlugengineError, StateError
from plugengine.images import scratch
from plugengine.images.store import ImageStore
from plugengine.kernel.files import AT_FDCWD, AT_RECURSIVE
from plugengine.kernel.mount import MS_PRIVATE, MS_RDONLY, MS_REMOUNT, mount, mount_setattr
from plugengine.kernel.process import CLONE_NEWNS, unshare
from tests.system.images import archives as a
from tests.system.images.conftest import open_store
from tests.unit.images.tars import make_tar, member

BIG = make_tar([member(f"d{number % 7}/f{number}", content=b"x" * 20_000) for number in range(300)])


def start(work: Callable[[], Any]) -> tuple[int, int]:
    """Run a function in a child; its JSON-able result, or the error's words, come through the pipe."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid:
        os.close(send)
        return pid, receive
    try:
        os.close(receive)
        try:
            result = work()
        except PlugengineError as error:
            result = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - nothing may run on into the parent's stack
            result = f"unexpected {error!r}"
        with os.fdopen(send, "w") as pipe:
            json.dump(result, pipe)
    finally:
        os._exit(0)


def finish(children: list[tuple[int, int]]) -> list[Any]:
    results = []
    for pid, receive in children:
        with os.fdopen(receive) as pipe:
            results.append(json.loads(pipe.read() or "null"))
        os.waitpid(pid, 0)
    return results


# --- many at once ---


def test_fifty_processes_that_load_the_same_archive_all_get_the_same_image(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(a.pack(a.docker_parts(a.LOW, a.HIGH, tags=["web"])))
    results = finish([start(lambda: open_store(tmp_path / "root").load(str(archive))[0].id) for _ in range(50)])
    store = open_store(tmp_path / "root")
    assert set(results) == {store.get("web").id}
    assert store.check() == []
    assert os.listdir(store.files.tmp) == []
    store.state.close()


def test_fifty_processes_that_want_a_host_image_all_get_it_and_it_is_made_once(tmp_path: Path) -> None:
    results = finish(
        [start(lambda: open_store(tmp_path / "root").resolve("host:/bin/true,/bin/cat").id) for _ in range(50)]
    )
    store = open_store(tmp_path / "root")
    assert set(results) == {store.list()[0].id}
    assert len(store.list()) == 1
    assert store.check() == []
    store.state.close()


def test_loading_and_removing_at_the_same_time_never_breaks_an_image(tmp_path: Path) -> None:
    archives = []
    for number, layers in enumerate([(a.LOW,), (a.LOW, a.HIGH), (a.HIGH,), (a.HIGH, a.LOW)]):
        archives.append(tmp_path / f"{number}.tar")
        archives[-1].write_bytes(a.pack(a.docker_parts(*layers, tags=[f"x:{number}"])))

    def churn(seed: int) -> str:
        store = open_store(tmp_path / "root")
        for turn in range(12):
            number = (seed + turn) % len(archives)
            if (seed + turn) % 3:
                store.load(str(archives[number]))
            else:
                try:
                    store.remove(f"x:{number}", force=True)
                except PlugengineError as error:
                    if type(error).__name__ != "NotFoundError":
                        raise
        return "done"

    assert finish([start(lambda seed=seed: churn(seed)) for seed in range(12)]) == ["done"] * 12  # type: ignore[misc]
    store = open_store(tmp_path / "root")
    for image in store.list():
        assert store.get(image.id).layers  # would raise if one were missing
    assert [line for line in store.check() if "missing" in line or "damaged" in line] == []
    store.gc()
    assert store.check() == []
    store.state.close()


# --- death ---

LOADER = """
import os, sys
from plugengine.images.store import ImageStore
from plugengine.state.state import State
store = ImageStore(sys.argv[1], State(sys.argv[1]))
store.list()
os.write(1, b"ready")
store.load(sys.argv[2])
"""


@pytest.mark.parametrize("delay_ms", [0, 3, 8, 15, 25, 40, 60, 90])
def test_a_loader_killed_at_any_moment_leaves_nothing_that_gc_does_not_remove(tmp_path: Path, delay_ms: int) -> None:
    (tmp_path / "a.tar").write_bytes(a.pack(a.docker_parts(BIG, a.LOW, tags=["web"])))
    root = tmp_path / "root"
    store = open_store(root)
    with subprocess.Popen([sys.executable, "-c", LOADER, root, tmp_path / "a.tar"], stdout=subprocess.PIPE) as loader:
        assert loader.stdout is not None
        assert loader.stdout.read(5) == b"ready"
        time.sleep(delay_ms / 1000)
        loader.send_signal(signal.SIGKILL)
    for image in store.list():
        assert len(os.listdir(store.get(image.id).layers[0])) == 7
    store.gc()
    assert store.check() == []
    assert os.listdir(store.files.tmp) == []
    [image] = store.load(str(tmp_path / "a.tar"))
    assert len(os.listdir(image.layers[0])) == 7
    store.state.close()


def test_work_in_progress_of_a_living_process_is_not_touched(store: ImageStore) -> None:
    store.files.ensure()
    with store.files.scratch() as work:
        assert scratch.collect(store.files.tmp) == []
        assert os.path.isdir(work.path)
    store.files.ensure()
    os.mkdir(f"{store.files.tmp}/image-dead")
    os.mkdir(f"{store.files.tmp}/not-ours")
    assert store.check() == [f"unfinished work {store.files.tmp}/image-dead"]
    assert store.gc() == [f"unfinished work {store.files.tmp}/image-dead, removed"]
    os.rmdir(f"{store.files.tmp}/not-ours")


# --- rows and files that do not fit ---


def test_orphans_of_every_kind_are_found_and_removed(store: ImageStore) -> None:
    store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, tags=["web"]))))
    orphan, blob = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    os.makedirs(f"{store.files.layer(orphan)}/with/content")
    Path(store.files.blob(blob)).write_text("x")
    with store.state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES (?, 1, 1)", ("sha256:" + "3" * 64,))
    Path(store.files.sources, "host-base.json").write_text('{"image": "sha256:gone"}')
    found = store.check()
    assert [line.split(":")[0] for line in found] == [
        "layer 111111111111", "layer 333333333333", "blob 222222222222", f"record {store.files.sources}/host-base.json",
    ]  # fmt: skip
    assert store.gc() == [f"{line}, removed" for line in found]
    assert store.check() == []
    assert store.get("web").layers


def test_an_image_that_lost_a_layer_says_so_and_repair_forgets_it(store: ImageStore) -> None:
    image = store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, a.HIGH, tags=["web"]))))[0]
    shutil.rmtree(image.layers[0])
    with pytest.raises(PlugengineError, match=f"layer {image.layers[0]} is missing") as caught:
        store.get("web")
    assert caught.value.hint == "pe system check --repair"
    missing = a.digest(a.LOW)[7:19]
    assert store.check() == [f"image web:latest: layer {missing} is missing"]
    assert store.check(repair=True)[0] == f"image web:latest: layer {missing} is missing, image removed"
    assert store.list() == []
    assert store.check() == []
    assert store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, a.HIGH, tags=["web"]))))[0] == image


def test_an_image_that_lost_a_layer_can_be_removed_or_loaded_again(store: ImageStore) -> None:
    archive = a.pack(a.docker_parts(a.LOW, a.HIGH, tags=["web"]))
    image = store.load(io.BytesIO(archive))[0]
    shutil.rmtree(image.layers[0])
    assert store.load(io.BytesIO(archive))[0] == image
    assert os.listdir(image.layers[0])
    shutil.rmtree(image.layers[1])
    assert store.remove("web")[0] == "Untagged: web:latest"
    assert store.check() == []


def test_a_damaged_config_blob_is_written_again_from_the_database(store: ImageStore) -> None:
    image = store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, tags=["web"]))))[0]
    Path(store.files.blob(image.id)).write_text("damaged")
    assert store.check() == ["image web:latest: its config is damaged on disk"]
    assert store.check(repair=True) == ["image web:latest: its config is damaged on disk, written again"]
    assert store.check() == []
    os.unlink(store.files.blob(image.digest))
    assert "its manifest is damaged on disk" in store.check()[0]
    assert store.get("web") == image


# --- disks ---


def in_mount_namespace(work: Callable[[], Any]) -> Any:
    """Run a function where mounts are seen by nobody else."""

    def enter() -> Any:
        unshare(CLONE_NEWNS)
        mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, propagation=MS_PRIVATE)
        return work()

    return finish([start(enter)])[0]


def test_a_full_disk_is_said_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()

    def work() -> list[Any]:
        mount("none", str(root), "tmpfs", 0, "size=3m")
        store = open_store(root)
        small = store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, tags=["small"]))))[0]
        try:
            store.load(io.BytesIO(a.pack(a.docker_parts(BIG, tags=["big"]))))
        except NoSpaceError as error:
            said = [str(error), error.hint]
        else:
            said = ["nothing", None]
        left = [sorted(image.names for image in store.list()), store.check(), os.listdir(store.files.tmp)]
        return [*said, *left, store.get("small") == small]

    message, hint, names, check, tmp, same = in_mount_namespace(work)
    assert "no space left on device" in message
    assert hint
    assert (names, check, tmp, same) == ([["small:latest"]], [], [], True)


def test_a_read_only_root_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()

    def work() -> str:
        mount("none", str(root), "tmpfs", 0, "size=3m")
        store = open_store(root)
        store.files.ensure()
        store.state.close()
        mount("none", str(root), "", MS_REMOUNT | MS_RDONLY, "")
        try:
            store.load(io.BytesIO(a.pack(a.docker_parts(a.LOW, tags=["small"]))))
        except StateError as error:
            return str(error)
        return "nothing"

    assert "read-only file system" in in_mount_namespace(work)
