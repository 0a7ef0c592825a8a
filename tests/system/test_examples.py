"""The example packages: built as wheels, installed as third-party packages are, tested by their own tests, and used."""

from __future__ import annotations

import glob
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from plugengine.kernel.process import ProcessId, is_alive
from tests.conftest import Pe
from tests.system.environments import Environment
from tests.waiting import eventually

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROJECTS = sorted(path.parent.name for path in EXAMPLES.glob("*/pyproject.toml"))
NONE = ("--net", "none")
TOO_LONG_S = 300


def installed(tmp_path: Path, name: str) -> tuple[Environment, Path]:
    """Build and install one example from a copy of its directory; return the environment and the copy."""
    project = tmp_path / name
    shutil.copytree(EXAMPLES / name, project, ignore=shutil.ignore_patterns("__pycache__"))
    environment = Environment(tmp_path / "venv")
    wheels = tmp_path / "wheels"
    environment.pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(project))
    [wheel] = wheels.iterdir()
    environment.pip("install", "--no-index", "--no-deps", str(wheel))
    return environment, project


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG_S)
@pytest.mark.parametrize("name", PROJECTS)
def test_the_tests_of_an_example_pass_against_its_wheel(pe: Pe, tmp_path: Path, name: str) -> None:
    environment, project = installed(tmp_path, name)
    shutil.rmtree(project / "src")  # what is tested is what was installed
    done = environment.run(
        pe, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=project, timeout=TOO_LONG_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_what_a_container_on_ramdisk_writes_stays_in_memory_and_ends_with_it(pe: Pe, tmp_path: Path) -> None:
    environment, _project = installed(tmp_path, "plugengine-ramdisk")
    words = ("run", "--name", "fleeting", "--storage", "ramdisk", "--storage-opt", "size=8m", *NONE, "host:base")
    ran = environment.run(pe, "pe", *words, "sh", "-c", "echo kept > /kept; dd if=/dev/zero of=/big bs=1M count=64")
    try:
        assert ran.returncode != 0
        assert "No space left" in ran.stderr
        assert "A /kept" in environment.run(pe, "pe", "diff", "fleeting").stdout
        again = environment.run(pe, "pe", "start", "-a", "fleeting")
        assert "No space left" in again.stderr
        assert "tmpfs ramdisk" in Path("/proc/self/mountinfo").read_text()
    finally:
        removed = environment.run(pe, "pe", "rm", "-f", "fleeting")
    assert removed.returncode == 0, removed.stderr
    assert "tmpfs ramdisk" not in Path("/proc/self/mountinfo").read_text()


def test_the_time_line_shows_the_steps_of_a_start_and_of_its_end(
    pe: Pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_TIMELINE_DIRECTORY", str(tmp_path / "notes"))
    environment, _project = installed(tmp_path, "plugengine-timeline")
    made = environment.run(pe, "pe", "create", *NONE, "host:base", "true")
    container = made.stdout.strip()
    environment.run(pe, "pe", "start", "-a", container)
    try:
        lines = environment.run(pe, "pe", "timeline", container[:12]).stdout.splitlines()
        names = [line[:44].strip() for line in lines]
        assert any(name.startswith("make cgroup") for name in names), lines
        assert any(name.startswith("undo: make cgroup") for name in names)
        assert "* start" in names
        assert "* die" in names
        assert any(" ms " in line and "#" in line for line in lines)
        nobody = environment.run(pe, "pe", "timeline", "0000000")
        assert nobody.returncode != 0
        assert "nothing was noted" in nobody.stderr
        assert "timeline" in environment.run(pe, "pe", "--help").stdout
    finally:
        environment.run(pe, "pe", "rm", "-f", container)


def test_a_container_on_fuse_overlayfs_runs_changes_files_and_leaves_no_server(pe: Pe, tmp_path: Path) -> None:
    environment, _project = installed(tmp_path, "plugengine-fuse-overlayfs")
    words = ("run", "--name", "wrapped", "--storage", "fuse_overlayfs", *NONE, "host:base")
    ran = environment.run(pe, "pe", *words, "sh", "-c", "grep ' / ' /proc/self/mounts; echo kept > /kept")
    try:
        assert ran.returncode == 0, ran.stderr
        assert "fuse-overlayfs" in ran.stdout
        assert "A /kept" in environment.run(pe, "pe", "diff", "wrapped").stdout
        again = environment.run(pe, "pe", "start", "-a", "wrapped")
        assert again.returncode == 0, again.stderr
    finally:
        removed = environment.run(pe, "pe", "rm", "-f", "wrapped")
    assert removed.returncode == 0, removed.stderr
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in running if line.startswith(b"fuse-overlayfs") and os.fsencode(pe.run_root) in line]


def test_runc_runs_containers_as_native_does_and_leaves_nothing(pe: Pe, tmp_path: Path) -> None:
    environment, _project = installed(tmp_path, "plugengine-runc")
    flags = ("--runtime", "runc", *NONE)
    try:
        script = "id -u; hostname; grep -c . /proc/self/cgroup; [ -t 0 ] || echo piped; exit 3"
        limits = ("-h", "box", "--memory", "64m")
        ran = environment.run(pe, "pe", "run", "--rm", *limits, *flags, "host:base", "sh", "-c", script)
        assert (ran.returncode, ran.stderr) == (3, "")
        assert ran.stdout.split()[:2] == ["0", "box"]
        missing = environment.run(pe, "pe", "run", "--rm", *flags, "host:base", "no-such-command")
        assert missing.returncode == 127
        refused = environment.run(pe, "pe", "run", "--rm", "--init", *flags, "host:base", "true")
        assert "--init: runtime driver runc does not claim init" in refused.stderr

        environment.run(pe, "pe", "run", "-d", "--name", "wrapped", *flags, "host:base", "sleep", "1000")
        assert environment.run(pe, "pe", "exec", "wrapped", "cat", "/proc/1/comm").stdout == "sleep\n"
        found = json.loads(environment.run(pe, "pe", "inspect", "wrapped").stdout)[0]
        assert found["HostConfig"]["Runtime"] == "runc"
        assert environment.run(pe, "pe", "system", "check").stdout == ""
        first = ProcessId.of(found["State"]["Pid"])
        os.kill(found["State"]["MonitorPid"], signal.SIGKILL)
        status = ("pe", "inspect", "-f", "{{.State.Status}}", "wrapped")
        eventually(lambda: environment.run(pe, *status).stdout == "exited\n")
        assert first is not None
        assert not is_alive(first)
    finally:
        environment.run(pe, "pe", "rm", "-f", "wrapped")
    groups = [line for line in glob.glob("/sys/fs/cgroup/*/plugengine/*") if found["Id"] in line]
    assert groups == []
