"""What goes wrong in `pe bench storage` is shown where it belongs, and stops nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from plugengine.bench.results import Run, from_json
from tests.conftest import Pe, need_root
from tests.system.packages import Package, install
from tests.waiting import PATIENCE_S, eventually

FAST = ("--quick", "--rounds", "1", "--warmup", "0")

STRANGER = '''
import os
import signal
from plugengine.bench.workload import Inside, Workload
from plugengine.hookspecs import hookimpl

HERE = os.path.dirname(os.path.abspath(__file__))


@hookimpl
def pe_bench_workloads():
    return {name: f"bench_stranger:{kind.__name__}" for name, kind in (("count", Count), ("broken", Broken),
            ("killer", Killer))}


class Count(Inside):
    name = "count"
    title = "count the files of an area"
    sentence = "count {files} files"
    group = "strange"
    unit = "1/s"
    area = "strange"
    quick = {"files": 12}
    full = {"files": 12}
    script = HERE + "/bench_stranger_guest.py"
    function = "count"

    def build(self, directory, sizes):
        for number in range(sizes["files"]):
            open(f"{directory}/{number}", "w").close()


class Broken(Count):
    name = "broken"
    function = "broken"


class Killer(Workload):
    """Kills the file server of its container, if there is one, and then uses it."""

    name = "killer"
    title = "kill the server"
    sentence = "kill"
    group = "strange"

    def take(self, stand, sizes):
        place = stand.place(self.name)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with open(f"/proc/{pid}/comm") as stream:
                if stream.read().strip() == "pe-server":
                    os.kill(int(pid), signal.SIGKILL)
        return place.run(Count(), {"files": 12})
'''

GUEST = """
import os


def count(job):
    with job.timed():
        found = len(list(job.files()))
    assert os.path.isdir(job.work), job.work
    return found


def broken(job):
    raise ValueError("this one never works")
"""

UNWILLING = """
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.errors import DriverError
from plugengine.model import DriverInfo


@hookimpl
def pe_storage_info():
    return DriverInfo(api_version=API_VERSION, summary="never prepares")


@hookimpl
def pe_storage_probe(host):
    return []


@hookimpl
def pe_storage_prepare(request):
    raise DriverError("prepare: not today")


@hookimpl
def pe_storage_mounts(request, record):
    raise DriverError("not today")


@hookimpl
def pe_storage_usage(request, record):
    raise DriverError("not today")


@hookimpl
def pe_storage_remove(request, record):
    pass
"""

MEASURING_S = PATIENCE_S / 4  # enough for a first round on a slow machine


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PYTHONPATH with wheels of others installed."""
    target = tmp_path_factory.mktemp("strangers") / "site"
    install(
        [
            Package(name="bench-stranger", source=STRANGER, points={"plugengine.hooks:stranger": "bench_stranger"}),
            Package(name="bench-stranger-guest", source=GUEST, points={}),
            Package(
                name="bench-unwilling", source=UNWILLING, points={"plugengine.storage:unwilling": "bench_unwilling"}
            ),
        ],
        target,
    )
    return target


def bench(pe: Pe, directory: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `pe bench storage` there."""
    environ = {**pe.environ, "PLUGENGINE_WARM": "0", **({"PYTHONPATH": str(path)} if path else {})}
    command = pe.command("bench", "storage", "--directory", str(directory), *words)
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def results(path: Path) -> Run:
    """Read a file of results."""
    return from_json(path.read_bytes(), str(path))


def test_workloads_of_another_distribution_take_part_and_failing_ones_are_shown(
    pe: Pe, tmp_path: Path, strangers: Path
) -> None:
    need_root()
    work, found = tmp_path / "work", tmp_path / "found.json"
    work.mkdir()
    words = ("--drivers", "overlay,fuse_union,unwilling", "--workloads", "count,broken,killer,absent")
    done = bench(pe, work, *FAST, *words, "--json", str(found), path=strangers)
    assert done.returncode == 1, done.stderr
    run = results(found)
    assert run.cell("count", "overlay").values == (12.0,)
    assert run.cell("count", "plain").values == (12.0,)
    assert "never works" in run.cell("broken", "overlay").error
    assert run.cell("killer", "overlay").values == (12.0,), "there is no server to be killed"
    assert run.cell("killer", "fuse_union").error
    assert run.cell("absent", "fuse_union").values, "the others go on, in a container made anew"
    for workload in ("count", "killer", "absent"):
        assert "not today" in run.cell(workload, "unwilling").error
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--drivers", "overlya"), "did you mean overlay?"),
        (("--workloads", "walk-wram"), "did you mean walk-warm?"),
        (("--baseline", "btrfs", "--drivers", "overlay"), "baseline btrfs"),
        (("--filesystem", "vfat", "--workloads", "absent"), "one of btrfs, ext4, xfs"),
        (("--image", "host:base", "--workloads", "absent"), "has no python3"),
        (("--image", "no-such-image", "--workloads", "absent"), "no-such-image"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(
    pe: Pe, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    need_root()
    done = bench(pe, tmp_path, *FAST, *words)
    assert done.returncode == 125
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_room_is_refused_before_anything_is_made(pe: Pe, tmp_path: Path) -> None:
    need_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(tmp_path)], check=True)
    try:
        done = bench(pe, tmp_path, *FAST)
        assert done.returncode == 125
        assert "MB free, the run needs" in done.stderr
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_driver_that_does_not_work_here_keeps_its_column_with_the_reason(pe: Pe, tmp_path: Path) -> None:
    need_root()
    work, found = tmp_path / "work", tmp_path / "found.json"
    work.mkdir()
    words = ("--drivers", "overlay,btrfs", "--filesystem", "ext4", "--workloads", "absent", "--json", str(found))
    assert bench(pe, work, *FAST, *words).returncode == 0
    column = next(column for column in results(found).columns if column.name == "btrfs")
    assert "not on btrfs" in column.reason


def test_an_interrupt_keeps_what_there_is_and_leaves_nothing(pe: Pe, tmp_path: Path) -> None:
    need_root()
    work, found = tmp_path / "work", tmp_path / "found.json"
    work.mkdir()
    words = ("--quick", "--rounds", "1000", "--warmup", "0", "--drivers", "overlay", "--workloads", "absent,mount-1")
    command = pe.command("bench", "storage", "--directory", str(work), *words, "--json", str(found))
    environ = {**pe.environ, "PLUGENGINE_WARM": "0"}
    process = subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: list(work.glob("*/disk/root/containers/*")))
    with pytest.raises(subprocess.TimeoutExpired):  # it goes on measuring
        process.wait(MEASURING_S)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    run = results(found)
    assert run.partial
    assert run.cell("absent", "overlay").values
    assert list(work.iterdir()) == []


def test_an_image_of_the_users_own_store_can_be_the_base(pe: Pe, tmp_path: Path) -> None:
    need_root()
    pe("run", "--rm", "--network", "none", "host:python", "true", check=True)
    pe("tag", "host:python", "bench-base-of-mine", check=True)
    try:
        words = ("--drivers", "overlay", "--image", "bench-base-of-mine", "--workloads", "absent,import-warm")
        done = bench(pe, tmp_path, *FAST, *words)
        assert done.returncode == 0, done.stderr
    finally:
        pe("rmi", "bench-base-of-mine", check=True)
