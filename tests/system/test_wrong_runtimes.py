"""Runtime drivers that lie, hang, lose their process or fail to undo: an error that names them, and nothing left."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.packages import Package
from tests.system.test_bad_drivers import Plugged, plug
from tests.system.test_bad_input import NONE
from tests.system.test_hanging_drivers import Impatient, impatient
from tests.waiting import eventually

# The bundled driver, which writes down what it made and what it was told to delete; the wrong one changes one hook.
NOTING = """
import os, signal as signals, time
from msgspec.structs import replace
import plugengine_runtime_native as native
from plugengine_runtime_native import *
from plugengine.bundle import RuntimeProcess
from plugengine.errors import DriverError
from plugengine.hookspecs import hookimpl

def note(*words):
    with open({notes!r}, "a") as stream:
        print(*words, file=stream)

def make(request, bundle, spawn):
    made = native.pe_runtime_create(request, bundle, spawn)
    note("made", made.pid)
    return made

@hookimpl
def pe_runtime_info():
    return replace(native.pe_runtime_info(), rank=-1)

@hookimpl
def pe_runtime_create(request, bundle, spawn):
    return make(request, bundle, spawn)

@hookimpl
def pe_runtime_delete(request, record):
    note("deleted", "with a record" if record else "without a record")
    native.pe_runtime_delete(request)
"""
CREATE = "\n@hookimpl\ndef pe_runtime_create(request, bundle, spawn):\n    made = make(request, bundle, spawn)\n"
START = "\n@hookimpl\ndef pe_runtime_start(request, record):\n"
LYING = CREATE + "    return replace(made, pid=1)\n"
VAGUE = CREATE + "    return made.pid\n"
LOSING = CREATE + "    raise DriverError('lost it')\n"
STUCK = CREATE + "    time.sleep(1000)\n"
TARRYING = START + "    time.sleep(1000)\n"
KILLING = (
    START + "    os.kill(record['pid'], signals.SIGKILL)\n"
    "    os.waitid(os.P_PID, record['pid'], os.WEXITED | os.WNOWAIT)\n    return native.pe_runtime_start(request)\n"
)
DEAF = "\n@hookimpl\ndef pe_runtime_kill(record, signal):\n    raise DriverError('signals: not today')\n"
UNFIT = "\n@hookimpl\ndef pe_runtime_delete(request):\n    raise DriverError('nothing goes')\n"


def runtime(name: str, notes: Path, change: str = "") -> Package:
    """Return a package with a runtime driver of this name."""
    source = NOTING.replace("{notes!r}", repr(str(notes))) + change
    return Package(name=f"pe-test-{name}", source=source, points={f"plugengine.runtime:{name}": f"pe_test_{name}"})


def noted(notes: Path) -> tuple[list[int], list[str]]:
    """Return the processes that were made, and how delete was called."""
    words = [line.split(maxsplit=1) for line in notes.read_text().splitlines()]
    return [int(what) for verb, what in words if verb == "made"], [what for verb, what in words if verb == "deleted"]


def is_there(pid: int) -> bool:
    """Tell whether a process lives; one of a killed monitor is reaped by whoever is this machine's init, or never."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def assert_gone(pe: Pe, made: list[int], container_id: str) -> None:
    assert made
    assert list(filter(is_there, made)) == []
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        assert not (hierarchy / "plugengine" / container_id).exists()
    assert not (pe.run_root / "containers" / container_id).exists()


def start_and_remove(pe: Pe, name: str, notes: Path) -> tuple[str, list[str]]:
    """Start a container that does not come up; return what was said, and how delete was called."""
    pe("create", "--name", "wrong", "--runtime", name, *NONE, "host:base", "true", check=True)
    container_id = json.loads(pe("inspect", "wrong", check=True).stdout)[0]["Id"]
    try:
        done = pe("start", "wrong")
        assert done.returncode != 0
        assert pe("inspect", "-f", "{{.State.Status}}", "wrong", check=True).stdout == "created\n"
        made, deleted = noted(notes)
        eventually(lambda: not any(map(is_there, made)))
        assert_gone(pe, made, container_id)
    finally:
        pe("rm", "-f", "wrong", check=True)
    return done.stderr, deleted


@pytest.mark.parametrize(
    ("name", "change", "says", "deleted"),
    [
        ("lying", LYING, "runtime driver lying: returned process 1, which is not a child of the caller", "with"),
        ("vague", VAGUE, "runtime driver vague: create: returned int, not RuntimeProcess", "without"),
        ("losing", LOSING, "lost it", "without"),
        ("killing", KILLING, "", "with"),
    ],
)
def test_a_runtime_whose_process_cannot_be_held_is_an_error_and_told_to_delete_it(
    pe: Pe, tmp_path: Path, name: str, change: str, says: str, deleted: str
) -> None:
    notes = tmp_path / "notes"
    plugged = plug(pe, tmp_path / "packages", [runtime(name, notes, change)])
    said, calls = start_and_remove(plugged, name, notes)
    assert says in said, said
    assert calls == [f"{deleted} a record"]


@pytest.mark.parametrize(
    ("name", "change", "verb", "deleted"),
    [("stuck", STUCK, "create", "without"), ("tarrying", TARRYING, "start", "with")],
)
def test_a_runtime_that_hangs_is_an_error_that_names_it_and_its_process_is_ended(
    pe: Pe, tmp_path: Path, name: str, change: str, verb: str, deleted: str
) -> None:
    notes = tmp_path / "notes"
    plugged: Impatient = impatient(pe, tmp_path / "packages", [runtime(name, notes, change)])
    try:
        said, calls = start_and_remove(plugged, name, notes)
    finally:
        shutil.rmtree(pe.run_root / "degraded", ignore_errors=True)
    assert f"runtime driver {name}: {verb} did not return within {plugged.awhile_s} s" in said, said
    assert calls == [f"{deleted} a record"]


def test_a_runtime_that_cannot_delete_costs_the_command_nothing(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", [runtime("unfit", tmp_path / "notes", UNFIT)])
    done = plugged("run", "--rm", "--name", "spent", "--runtime", "unfit", *NONE, "host:base", "sh", "-c", "exit 3")
    assert done.returncode == 3
    assert "spent" not in pe("ps", "-a").stdout


@pytest.fixture
def deaf(pe: Pe, tmp_path: Path) -> Plugged:
    """A runtime whose kill fails, and a container of it that runs."""
    plugged = plug(pe, tmp_path / "packages", [runtime("deaf", tmp_path / "notes", DEAF)])
    plugged("run", "-d", "--name", "deaf", "--runtime", "deaf", *NONE, "host:base", "sleep", "1000", check=True)
    return plugged


def test_a_container_whose_runtime_cannot_signal_it_is_stopped_all_the_same(deaf: Plugged) -> None:
    try:
        refused = deaf("kill", "-s", "USR1", "deaf")
        assert refused.returncode != 0
        assert "signals: not today" in refused.stderr
        assert deaf("stop", "-t", "1", "deaf").returncode == 0
        assert deaf("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "deaf").stdout == "exited 137\n"
    finally:
        deaf("rm", "-f", "deaf", check=True)


def test_a_container_whose_runtime_was_uninstalled_is_named_so_stopped_and_removed(deaf: Plugged, pe: Pe) -> None:
    shutil.rmtree(deaf.path)
    try:
        assert json.loads(pe("inspect", "deaf", check=True).stdout)[0]["MissingDrivers"] == ["runtime driver deaf"]
        assert pe("stop", "-t", "1", "deaf").returncode == 0
        done = pe("start", "deaf")
        assert done.returncode != 0
        assert "runtime driver deaf: not installed" in done.stderr
    finally:
        pe("rm", "-f", "deaf", check=True)


def test_a_killed_monitors_container_is_deleted_by_its_runtime_with_its_record(pe: Pe, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    plugged = plug(pe, tmp_path / "packages", [runtime("noting", notes)])
    plugged("run", "-d", "--name", "left", "--runtime", "noting", *NONE, "host:base", "sleep", "1000", check=True)
    found = json.loads(plugged("inspect", "left", check=True).stdout)[0]
    try:
        os.kill(found["State"]["MonitorPid"], signal.SIGKILL)
        eventually(lambda: plugged("inspect", "-f", "{{.State.Status}}", "left").stdout == "exited\n")
        made, deleted = noted(notes)
        assert deleted == ["with a record"]
        assert_gone(plugged, made, found["Id"])
    finally:
        plugged("rm", "-f", "left", check=True)
