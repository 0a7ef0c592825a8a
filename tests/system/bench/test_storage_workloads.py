"""Every workload of `pe bench storage`, once, in the smallest size, in containers and without, on three drivers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugengine.bench.results import Run
from plugengine.bench.storage import PLAIN, StorageOptions, measure
from plugengine.bench.workload import Size
from plugengine.bench.workloads import BUNDLED
from plugengine.engine.containers import Containers
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine.objects import Container
from plugengine.plugins.registry import Registry
from plugengine.spec import ContainerSpec
from tests.conftest import need, need_root, need_tool

DRIVERS = ("overlay", "fuse_union", "vfs")
NOT_OF_A_DIRECTORY = {"prepare", "mount-1", "mount-20", "mount-120", "diff", "remove", "memory"}
MOST = {"s": 30.0, "B": 1e9, "B/s": 1e12, "1/s": 1e8, "%": 100.0}


def measured(directory: Path, *, direct: bool = False, **options: object) -> Run:
    """Measure once in the smallest size."""
    found = StorageOptions(
        **{"drivers": DRIVERS, "rounds": 1, "warmup": 0, "seed": 1, "size": Size.TINY, **options},  # type: ignore[arg-type]
        direct=direct,
        directory=str(directory),
    )
    return measure(found, progress=lambda _done, _total, _what: None, registry=Registry())


@contextmanager
def containers_told(path: Path) -> Iterator[None]:
    """Have the id of each container made meanwhile written to a file: other tests may be making theirs."""
    create = Containers.create

    def told(containers: Containers, spec: ContainerSpec) -> Container:
        row = create(containers, spec)
        with path.open("a") as stream:  # a file, as the engine is in another process
            print(row.id, file=stream)
        return row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Containers, "create", told)
        yield


@pytest.fixture(scope="module", params=["container", "direct"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Everything, once; nothing is left of it."""
    need_root()
    for tool in ("git", "dpkg"):
        need_tool(tool)
    need(None if os.path.exists("/dev/fuse") else "needs /dev/fuse")
    directory = tmp_path_factory.mktemp("bench")
    mounts = {entry.mount_id for entry in read_mountinfo()}
    told = tmp_path_factory.mktemp("containers") / "told"
    with containers_told(told):
        found = measured(directory, direct=request.param == "direct")
    assert list(directory.iterdir()) == []
    assert {entry.mount_id for entry in read_mountinfo()} == mounts
    containers = set(told.read_text().split())
    assert {group.name for group in Path("/sys/fs/cgroup").glob("**/plugengine/*")} & containers == set()
    return found


@pytest.mark.parametrize("workload", BUNDLED)
def test_a_workload_gives_a_plausible_number_for_every_driver(run: Run, workload: str) -> None:
    unit = next(each.unit for each in run.workloads if each.name == workload)
    for column in (*DRIVERS, PLAIN):
        if column == PLAIN and workload in NOT_OF_A_DIRECTORY:
            continue
        cell = run.cell(workload, column)
        assert cell.error == "", f"{column}: {cell.error}"
        (value,) = cell.values
        assert 0 <= value < MOST[unit] or value == MOST["%"] == MOST[unit]


def test_containers_of_a_union_share_the_page_cache_and_copies_do_not(run: Run) -> None:
    shares = {column: run.cell("shared-pages", column).values[0] for column in DRIVERS}
    assert shares["overlay"] == 100
    assert shares["fuse_union"] == 100
    assert shares["vfs"] == 0


def test_what_only_drivers_do_is_not_measured_for_the_plain_directory(run: Run) -> None:
    assert {cell.workload for cell in run.cells if cell.column == PLAIN} == set(BUNDLED) - NOT_OF_A_DIRECTORY


def test_the_rows_say_who_did_the_work(run: Run) -> None:
    need_tool("fio")
    tools = {each.name: each.tool.partition("-")[0] for each in run.workloads}
    by_fio = {"read", "random-read", "write", "random-write"}
    assert tools == {name: "fio" if name in by_fio and run.place == "direct" else "" for name in BUNDLED}


def test_two_runs_with_one_seed_do_the_same_in_the_same_order(tmp_path: Path) -> None:
    need_root()
    options = StorageOptions(
        drivers=("overlay",),
        workloads=("absent", "create", "mount-1"),
        rounds=2,
        seed=7,
        size=Size.TINY,
        directory=str(tmp_path),
    )
    orders: tuple[list[str], list[str]] = ([], [])

    def take(order: list[str]) -> Run:
        return measure(options, progress=lambda _done, _total, what: order.append(what), registry=Registry())

    first, second = (take(order) for order in orders)
    assert orders[0] == orders[1]
    assert first.columns == second.columns
    assert first.workloads == second.workloads
    assert [(cell.workload, cell.column, cell.rounds) for cell in first.cells] == [
        (cell.workload, cell.column, cell.rounds) for cell in second.cells
    ]


@pytest.mark.parametrize("filesystem", ["btrfs", "ext4", "xfs"])
def test_all_drivers_can_be_compared_on_a_filesystem_made_for_the_run(tmp_path: Path, filesystem: str) -> None:
    need_root()
    need_tool(f"mkfs.{filesystem}")
    found = measured(
        tmp_path, drivers=(), workloads=("create", "prepare", "remove-tree"), filesystem=filesystem, direct=False
    )
    assert found.machine.filesystem.startswith(filesystem)
    reasons = {column.name: column.reason for column in found.columns if column.name in (*DRIVERS, "btrfs", PLAIN)}
    assert (reasons.pop("btrfs") == "") == (filesystem == "btrfs")
    assert set(reasons.values()) == {""}
    assert not [warning for warning in found.warnings if "journal" in warning]
    assert not [cell for cell in found.cells if cell.error and cell.column in (*DRIVERS, "btrfs", PLAIN)]


def test_an_ext4_without_a_journal_is_warned_of(tmp_path: Path) -> None:
    need_root()
    tool = need_tool("mkfs.ext4")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as stream:
        stream.truncate(2 << 30)
    subprocess.run([tool, "-q", "-F", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    try:
        found = measured(disk, drivers=("overlay",), workloads=("absent",))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "ext4 without a journal" in " ".join(found.warnings)
