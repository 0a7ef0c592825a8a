"""Drivers that do not answer, and drivers that are gone: an error that names them, and nobody else waits."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.packages import Package
from tests.system.test_bad_drivers import NETWORK, PREPARE, STORAGE, Plugged, plug, storage
from tests.system.test_bad_input import ENGINE, NONE
from tests.waiting import PATIENCE_S

SLEEP = "    import time\n    time.sleep(1000)\n    return {}\n"
STUBBORN = """
    while True:
        try:
            while True:
                pass
        except Exception:
            pass
"""
HANGING = [
    storage("sleeping", STORAGE + PREPARE + SLEEP),
    storage("spinning", STORAGE + PREPARE + STUBBORN),
    storage("endless", "import time; time.sleep(1000)\n"),
    storage("musing", STORAGE.replace("return ()", "import time; time.sleep(1000)")),
    storage("dripping", STORAGE.replace("return ()", "return iter(lambda: __import__('time').sleep(0.1), 1)")),
    Package(
        name="pe-test-tarrying",
        source=NETWORK + "\n@hookimpl\ndef pe_network_attach(request):\n" + SLEEP,
        points={"plugengine.network:tarrying": "pe_test_tarrying"},
    ),
]

# The bundled driver of the kernel under another name: what it does is right, only it can be uninstalled.
BORROWED = storage("borrowed", "from plugengine_overlay import *  # noqa: F403\n")
EAGER = """
import os, time
import plugengine_overlay
from plugengine_overlay import *
from msgspec.structs import replace
from plugengine.hookspecs import hookimpl

@hookimpl
def pe_storage_info():
    return replace(plugengine_overlay.pe_storage_info(), rank=1000)

@hookimpl
def pe_storage_prepare(request):
    if os.path.exists(os.environ["EAGER_HANGS"]):
        time.sleep(1000)
    return plugengine_overlay.pe_storage_prepare(request)
"""
NEWER = [
    storage(
        "newer",
        "import plugengine_overlay\nfrom plugengine_overlay import *\nfrom plugengine.hookspecs import hookimpl\n"
        "from msgspec.structs import replace\n"
        "@hookimpl\ndef pe_storage_info():\n"
        "    return replace(plugengine_overlay.pe_storage_info(), api_version=(1, 99), rank=-1)\n"
        "@hookimpl\ndef pe_storage_foresee(request):\n    return True\n",
    ),
    storage(
        "wanting",
        STORAGE.replace("rank=-1", "capabilities=frozenset((Capability.TELEPORT,))").replace(
            "import DriverInfo", "import Capability, DriverInfo"
        ),
    ),
    storage(
        "changed",
        STORAGE.replace("API_VERSION, summary", "(1, 99), summary")
        + "\n@hookimpl\ndef pe_storage_prepare(request, colour):\n    return {}\n",
    ),
]


class Impatient(Plugged):
    """The real `pe`, which waits for a hook as long as a whole command takes now, five times, and no longer."""

    awhile_s: int

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "PLUGENGINE_HOOK_TIMEOUT": str(self.awhile_s)}


def impatient(pe: Pe, path: Path, packages: list[Package]) -> Impatient:
    plugged = Impatient(pe.root, pe.run_root)
    began = time.monotonic()
    pe("run", "--rm", *NONE, "host:base", "true", check=True)
    plugged.awhile_s = max(2, round(5 * (time.monotonic() - began)))
    plugged.path = plug(pe, path, packages).path
    return plugged


@pytest.fixture(scope="module")
def hanging(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Impatient]:
    yield impatient(pe_env, tmp_path_factory.mktemp("hanging") / "packages", HANGING)
    shutil.rmtree(pe_env.run_root / "degraded", ignore_errors=True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sleeping", "storage driver sleeping: prepare did not return within {} s"),
        ("spinning", "storage driver spinning: prepare did not return within {} s"),
        ("endless", "storage driver endless of pe-test-endless 1.2: import: did not end within {} s"),
        ("musing", "storage driver musing: probe did not return within {} s"),
        ("dripping", "storage driver dripping: probe did not return within {} s"),
    ],
)
def test_a_storage_driver_that_does_not_answer_is_an_error_that_names_it(
    hanging: Impatient, name: str, says: str
) -> None:
    done = hanging("run", "--rm", "--storage", name, *NONE, "host:base", "true")
    assert done.returncode == ENGINE
    assert says.format(hanging.awhile_s) in done.stderr, done.stderr


def test_drivers_whose_probes_hang_are_waited_for_side_by_side(pe: Pe, tmp_path: Path) -> None:
    names = [f"dozing{number}" for number in range(7)]
    source = STORAGE.replace("return ()", "import time; time.sleep(1000)")
    points = {f"plugengine.storage:{name}": "pe_test_dozing" for name in names}
    plugged = impatient(pe, tmp_path / "packages", [Package(name="pe-test-dozing", source=source, points=points)])
    begin = time.monotonic()
    shown = plugged("drivers", "--format", "json", check=True).stdout
    assert time.monotonic() - begin < len(names) * plugged.awhile_s
    found = {line["Name"]: line for line in map(json.loads, shown.splitlines())}
    for name in names:
        assert found[name]["Reasons"] == [f"storage driver {name}: probe did not return within {plugged.awhile_s} s"]
    shutil.rmtree(pe.run_root / "degraded", ignore_errors=True)


def test_a_network_driver_that_hangs_in_the_monitor_leaves_no_container_behind(hanging: Impatient) -> None:
    done = hanging("run", "--name", "tarried", "--net", "tarrying", "host:base", "true")
    assert done.returncode == ENGINE
    assert f"network driver tarrying: attach did not return within {hanging.awhile_s} s" in done.stderr
    assert hanging("rm", "-f", "tarried").returncode == 0


# Each makes what its kind makes, does not return, and writes down that it was told to unmake it.
HALF_MADE = """
import time
import {module} as borrowed
from msgspec.structs import replace
from {module} import *
from plugengine.hookspecs import hookimpl

@hookimpl
def pe_{kind}_info():
    return replace(borrowed.pe_{kind}_info(), rank=-1)

@hookimpl
def pe_{kind}_{make}(request):
    borrowed.pe_{kind}_{make}(request)
    time.sleep(1000)

@hookimpl
def pe_{kind}_{unmake}(request, {record}):
    with open({notes!r}, "a") as stream:
        print({record}, file=stream)
    borrowed.pe_{kind}_{unmake}(request, {record})
"""


@pytest.mark.parametrize("kind", ["network", "cgroup"])
def test_a_driver_that_hangs_over_what_it_has_made_is_told_to_unmake_it(pe: Pe, tmp_path: Path, kind: str) -> None:
    version = pe("info", "-f", "{{.Drivers.cgroup}}", check=True).stdout.strip()
    words = {
        "network": ("plugengine_net_bridge", "attach", "detach", "attachment"),
        "cgroup": (f"plugengine_cgroup_{version}", "create", "remove", "record"),
    }
    module, make, unmake, record = words[kind]
    notes = tmp_path / "notes"
    filled = {"module": module, "kind": kind, "make": make, "unmake": unmake, "record": record, "notes": str(notes)}
    package = Package(
        name="pe-test-halfway",
        source=HALF_MADE.format(**filled),
        points={f"plugengine.{kind}:halfway": "pe_test_halfway"},
    )
    plugged = impatient(pe, tmp_path / "packages", [package])
    flags = ("--net", "halfway") if kind == "network" else (*NONE, "--cgroup", "halfway")
    plugged("create", "--name", "halfway", *flags, "host:base", "true", check=True)
    container_id = json.loads(pe("inspect", "halfway", check=True).stdout)[0]["Id"]
    try:
        done = plugged("start", "halfway")
        assert f"{kind} driver halfway: {make} did not return within {plugged.awhile_s} s" in done.stderr
        assert notes.read_text() == "None\n"
        assert not [path for path in Path("/sys/fs/cgroup").glob("*/plugengine/*") if path.name == container_id]
    finally:
        plugged("rm", "-f", "halfway", check=True)
        shutil.rmtree(pe.run_root / "degraded", ignore_errors=True)


def test_others_are_served_while_a_hook_hangs(hanging: Impatient, pe: Pe) -> None:
    waiting = hanging.popen("run", "--rm", "--storage", "sleeping", *NONE, "host:base", "true")
    try:
        assert pe("run", "--rm", *NONE, "host:base", "echo", "served").stdout == "served\n"
        assert pe("ps").returncode == 0
    finally:
        assert waiting.wait(PATIENCE_S) == ENGINE


def test_a_driver_that_hung_is_shown_as_degraded_and_no_default_until_it_answers_again(pe: Pe, tmp_path: Path) -> None:
    mark = tmp_path / "hangs"
    plugged = impatient(pe, tmp_path / "packages", [storage("eager", EAGER)])

    def run(*flags: str) -> tuple[int, str, str]:
        done = plugged(*("run", "--rm", "--name", "chosen", "-e", "A=1", *flags, *NONE, "host:base", "true"))
        return done.returncode, done.stdout, done.stderr

    def state() -> tuple[str, str]:
        lines = [json.loads(line) for line in plugged("drivers", "--format", "json").stdout.splitlines()]
        [line] = [line for line in lines if line["Name"] == "eager"]
        assert line["Supported"] == "yes", line["Reasons"]
        return str(line["Default"]), str(line["Degraded"])

    os.environ["EAGER_HANGS"] = str(mark)
    try:
        assert state() == ("*", "")
        assert run()[0] == 0
        mark.touch()
        assert run()[0] == ENGINE
        assert state() == ("", f"prepare did not return within {plugged.awhile_s} s")
        assert "degraded: prepare did not return" in plugged("drivers").stdout
        assert run()[0] == 0  # by another driver
        mark.unlink()
        assert run("--storage", "eager")[0] == 0  # named, and it answers
        assert state() == ("*", "")
    finally:
        del os.environ["EAGER_HANGS"]


def test_containers_of_a_driver_that_was_uninstalled_are_listed_inspected_and_removed(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", [BORROWED])
    plugged("create", "--name", "orphan", "--storage", "borrowed", *NONE, "host:base", "true", check=True)
    plugged("run", "-d", "--name", "alive", "--storage", "borrowed", *NONE, "host:base", "sleep", "60", check=True)
    shutil.rmtree(plugged.path)
    try:
        assert {"orphan", "alive"} <= set(pe("ps", "-a", "--format", "{{.Names}}").stdout.split())
        seen = json.loads(pe("inspect", "orphan", check=True).stdout)[0]
        assert seen["MissingDrivers"] == ["storage driver borrowed"]
        assert "(storage driver borrowed missing)" in pe("ps", "-a").stdout
        done = pe("start", "orphan")
        assert done.returncode != 0
        assert "storage driver borrowed: not installed" in done.stderr
        assert pe("exec", "alive", "echo", "here").stdout == "here\n"
        assert pe("stop", "-t", "1", "alive").returncode == 0
    finally:
        removed = pe("rm", "-f", "orphan", "alive")
    assert removed.returncode == 0, removed.stderr
    assert "borrowed" in removed.stderr
    assert "orphan" not in pe("ps", "-a").stdout
    assert not [path for path in (pe.root / "containers").iterdir() if "borrowed" in str(list(path.iterdir()))]


def test_a_driver_for_a_newer_minor_version_works_or_says_what_is_missing(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", NEWER)
    newer = plugged("run", "--rm", "--storage", "newer", *NONE, "host:base", "echo", "ok")
    assert newer.stdout == "ok\n", newer.stderr
    wanting = plugged("run", "--rm", "--storage", "wanting", *NONE, "host:base", "true")
    assert wanting.returncode == ENGINE
    assert "knows no capability TELEPORT: upgrade plugengine" in wanting.stderr
    changed = plugged("run", "--rm", "--storage", "changed", *NONE, "host:base", "true")
    assert changed.returncode == ENGINE
    assert "colour" in changed.stderr
    assert "written for API 1.99" in changed.stderr
    assert "upgrade plugengine" in changed.stderr
