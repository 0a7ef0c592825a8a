"""`pe bench start`, small: its results, an interrupt, a driver that breaks on the way, and names that are not there."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from plugengine.bench.results import Run, from_json
from tests.conftest import Pe, need, need_tool
from tests.system.conftest import eventually
from tests.system.packages import Package
from tests.system.test_bad_drivers import plug
from tests.system.test_bad_input import ENGINE, assert_refused
from tests.waiting import PATIENCE_S

USAGE = 2
SMALL = ("bench", "start", "--network", "none", "--rounds", "1", "--warmup", "0")
TIMEOUT_S = 110

# overlay, until the file says that it is enough.
BREAKS = """
import os
import plugengine_overlay
from plugengine.errors import DriverError
from plugengine.hookspecs import hookimpl
from plugengine_overlay import *

@hookimpl
def pe_storage_prepare(request):
    counter = "COUNTER"
    with open(counter, "a+") as stream:
        stream.write("x")
        stream.flush()
        if os.stat(counter).st_size > 6:
            raise DriverError("prepare: the disk of the test is on fire")
    return plugengine_overlay.pe_storage_prepare(request)
"""


def results(path: Path) -> Run:
    return from_json(path.read_bytes(), str(path))


def left_in(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith("pe-")]


def groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob("*/plugengine-bench/*")}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.mark.slow
def test_a_small_run_has_all_workloads_and_leaves_nothing(pe: Pe, tmp_path: Path, work: Path) -> None:
    out = tmp_path / "out.json"
    done = pe(
        *(*SMALL, "--storage", "overlay,btrfs", "--directory", str(work), "--seed", "7"),
        *("--json", str(out), "--html", str(tmp_path / "out.html")),
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(out)
    assert (found.kind, found.schema, found.seed, found.partial) == ("start", 1, 7, False)
    assert found.baseline == "overlay+none"
    assert found.failures == ()
    for name in ("run", "run-cold", "create", "start", "exec", "stop", "parallel"):
        assert found.cell(name, "overlay+none").values[0] > 0
    assert found.cell("start", "overlay+none library").values[0] > 0
    (missing,) = (column for column in found.columns if column.reason)
    assert (missing.name, "btrfs" in missing.reason) == ("btrfs", True)
    assert {column.name for column in found.columns if column.limit} == {"process", "interpreter"}
    assert "--seed 7" in " ".join(found.command)
    assert "--json" not in found.command
    assert "not measured here" in done.stdout
    assert "<html" in (tmp_path / "out.html").read_text()
    assert left_in(work) == []
    assert groups() == set()


@pytest.mark.slow
def test_an_interrupt_writes_what_there_is_and_marks_it_and_leaves_nothing(pe: Pe, tmp_path: Path, work: Path) -> None:
    out = tmp_path / "out.json"
    words = ("bench", "start", "--storage", "overlay", "--network", "none", "--workloads", "exec", "--warmup", "0")
    process = pe.popen(
        *(*words, "--rounds", "9999", "--json", str(out), "--directory", str(work)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        eventually(lambda: list(work.glob("pe-*/output.0")), seconds=PATIENCE_S)  # a command was timed
        eventually(lambda: len(list(work.glob("pe-*/disk/root/containers/*"))) >= 2, seconds=PATIENCE_S)
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, text + errors
    found = results(out)
    assert found.partial
    assert found.failures == ()
    assert len(found.cell("exec", "overlay+none").values) < 9999
    assert "INTERRUPTED" in text
    assert left_in(work) == []


@pytest.mark.slow
def test_a_run_whose_caller_is_killed_ends_with_it(pe: Pe, work: Path) -> None:
    process = subprocess.Popen(
        [*pe.command(*SMALL), "--directory", str(work), "--rounds", "9999"],
        env={**pe.environ, "PLUGENGINE_WARM": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: list(work.glob("pe-*/disk/root/containers/*")), seconds=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    eventually(lambda: not _processes_below(work), seconds=PATIENCE_S)
    for path in work.glob("pe-*"):
        subprocess.run(["rm", "-rf", str(path)], check=True)


def _processes_below(work: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(str(work)) in words:
            found.append(path.parent.name)
    return found


@pytest.mark.slow
def test_a_driver_that_breaks_on_the_way_is_shown_as_failed_and_the_others_go_on(
    pe: Pe, tmp_path: Path, work: Path
) -> None:
    source = BREAKS.replace("COUNTER", str(tmp_path / "counter"))
    package = Package(name="pe-test-breaks", source=source, points={"plugengine.storage:breaks": "pe_test_breaks"})
    plugged = plug(pe, tmp_path / "packages", [package])
    out = tmp_path / "out.json"
    words = ("bench", "start", "--storage", "breaks,overlay", "--network", "none", "--workloads", "create,exec")
    done = plugged(
        *(*words, "--rounds", "3", "--warmup", "0", "--directory", str(work), "--json", str(out)), timeout=TIMEOUT_S
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = results(out)
    assert all(cell.column.startswith("breaks+none") for cell in found.failures)
    assert any("round" in cell.error and "on fire" in cell.error for cell in found.failures)
    for name in ("overlay+none", "overlay+none library"):
        assert found.cell("create", name).rounds == (1, 2, 3)
    assert "failed" in done.stdout
    assert "on fire" in done.stdout
    assert left_in(work) == []


@pytest.mark.slow
def test_docker_and_podman_take_part_when_they_are_installed(pe: Pe, tmp_path: Path, work: Path) -> None:
    for name in ("dockerd", "podman", "runc"):
        need_tool(name)
    out = tmp_path / "out.json"
    words = (*SMALL, "--peers", "--storage", "overlay", "--workloads", "run,exec", "--directory", str(work))
    done = pe(*words, "--json", str(out), timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(out)
    for name in ("docker+none", "docker+default", "podman+none", "podman+default"):
        assert found.cell("run", name).values[0] > 0
        assert found.cell("exec", name).values[0] > 0
    assert next(column for column in found.columns if column.name == "docker+none").version
    assert groups() == set()
    assert left_in(work) == []


@pytest.mark.parametrize(
    ("words", "code", "parts", "hint"),
    [
        (("start", "--storage", "overlai"), ENGINE, ["storage driver overlai"], "did you mean overlay?"),
        (("start", "--network", "nonne"), ENGINE, ["network driver nonne"], "did you mean none?"),
        (("net", "--drivers", "bride"), ENGINE, ["network driver bride"], "did you mean bridge?"),
        (("storage", "--drivers", "fuse_onion"), ENGINE, ["fuse_onion"], "did you mean fuse_union?"),
        (("start", "--workloads", "runn"), ENGINE, ["workload runn"], "did you mean run?"),
        (("net", "--workloads", "latncy"), ENGINE, ["workload latncy"], "did you mean latency?"),
        (("start", "--rounds", "0"), USAGE, ["--rounds 0"], ""),
        (("start", "--rounds", "many"), USAGE, ["--rounds many"], ""),
        (("start", "--option", "overlay"), USAGE, ["--option overlay"], "for example"),
        (("start", "--option", "overlay:colour=red"), ENGINE, ["no option colour"], ""),
        (("start", "--json", "/nowhere/x.json"), ENGINE, ["/nowhere/x.json", "no such directory"], ""),
        (("net", "--html", "/"), ENGINE, ["is a directory"], ""),
        (("start", "--directory", "/nowhere"), ENGINE, ["/nowhere", "no such file or directory"], ""),
        (("start", "--baseline", "nosuch", "--storage", "overlay"), ENGINE, ["baseline nosuch"], "overlay+none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_said_before_anything_is_measured(
    pe: Pe, words: tuple[str, ...], code: int, parts: list[str], hint: str
) -> None:
    assert_refused(pe("bench", *words), code, *parts, hint=hint)


def test_too_little_space_is_said_before(pe: Pe, work: Path) -> None:
    need(None if os.geteuid() == 0 else "needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(work)], check=True)
    try:
        done = pe("bench", "start", "--directory", str(work))
        assert_refused(done, ENGINE, str(work), "MB free", "the run needs", hint="--directory")
        assert os.listdir(work) == []
    finally:
        subprocess.run(["umount", str(work)], check=True)


@pytest.mark.parametrize(
    ("kind", "some"), [("storage", {"walk-warm"}), ("start", {"run", "exec"}), ("net", {"stream", "port-packets"})]
)
def test_the_workloads_are_listed_without_being_run(pe: Pe, kind: str, some: set[str]) -> None:
    lines = pe("bench", kind, "--list", check=True).stdout.splitlines()
    assert some <= {line.split()[0] for line in lines}
