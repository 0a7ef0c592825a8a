"""Broken third-party packages: each is named with its distribution, and nobody else suffers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.packages import Package, install
from tests.system.test_bad_input import ENGINE, NONE, assert_refused
from tests.system.test_matrix import supported

UNFINISHED = """
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import DriverInfo, Rootfs, Usage

@hookimpl
def pe_storage_info():
    return DriverInfo(api_version=API_VERSION, summary="a test's", rank=-1)

@hookimpl
def pe_storage_probe(host):
    return ()
"""
STORAGE = (
    UNFINISHED
    + """
@hookimpl
def pe_storage_prepare(request):
    return {}

@hookimpl
def pe_storage_mounts(request, record):
    return Rootfs()

@hookimpl
def pe_storage_usage(request, record):
    return Usage(size_bytes=0, inodes=0)

@hookimpl
def pe_storage_remove(request, record):
    pass
"""
)
NETWORK = """
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import DriverInfo

@hookimpl
def pe_network_info():
    return DriverInfo(api_version=API_VERSION, summary="a test's", rank=-1)

@hookimpl
def pe_network_probe(host):
    return ()

@hookimpl
def pe_network_detach(request, attachment):
    pass
"""
PREPARE = """
@hookimpl
def pe_storage_prepare(request):
"""


def storage(name: str, source: str) -> Package:
    return Package(name=f"pe-test-{name}", source=source, points={f"plugengine.storage:{name}": f"pe_test_{name}"})


BROKEN = [
    storage("torn", "import no_such_library\n"),
    storage("leaving", "import sys; sys.exit('enough')\n"),
    storage("empty", "'no hooks'\n"),
    storage("misspelt", STORAGE + "\n@hookimpl\ndef pe_storage_prepair(request):\n    return {}\n"),
    storage("mistaken", STORAGE + "\n@hookimpl\ndef pe_storage_prepare(request, colour):\n    return {}\n"),
    storage("future", STORAGE.replace("API_VERSION, summary", "(9, 0), summary")),
    storage("odd", STORAGE + PREPARE + "    return 7\n"),
    storage("sloppy", STORAGE + PREPARE + "    import pathlib\n    return {'path': pathlib.Path('/')}\n"),
    storage("vague", STORAGE.replace('summary="a test\'s"', "summary=7")),
    storage("crashing", "import os; os._exit(7)\n"),
    storage("faulting", STORAGE.replace("return ()", "import ctypes; ctypes.string_at(0)")),
    storage("raising", STORAGE + PREPARE + "    return 1 // 0\n"),
    storage("quitting", STORAGE + PREPARE + "    raise SystemExit(0)\n"),
    storage("unable", STORAGE.replace("return ()", "return ('the moon is full',)")),
    storage("lazy", UNFINISHED),
    storage(
        "boastful",
        STORAGE.replace("rank=-1", "capabilities=frozenset((Capability.NATIVE_DIFF,))").replace(
            "import DriverInfo", "import Capability, DriverInfo"
        ),
    ),
    storage("meddling", STORAGE + "\n@hookimpl\ndef pe_network_attach(request):\n    return {}\n"),
    storage("silent", STORAGE + PREPARE + "    return None\n"),
    Package(
        name="pe-test-tangled",
        source=NETWORK + "\n@hookimpl\ndef pe_network_attach(request):\n    raise ValueError('tangled up')\n",
        points={"plugengine.network:tangled": "pe_test_tangled"},
    ),
]
TORN_OBSERVER = Package(
    name="pe-test-watcher", source="import no_such_library\n", points={"plugengine.hooks:watcher": "pe_test_watcher"}
)
RAISING_OBSERVER = Package(
    name="pe-test-loud",
    source="from plugengine.hookspecs import hookimpl\n@hookimpl\ndef pe_event(event): raise ValueError(0)\n",
    points={"plugengine.hooks:loud": "pe_test_loud"},
)
PRETENDER = Package(
    name="pe-test-pretender", source=STORAGE, points={"plugengine.storage:overlay": "pe_test_pretender"}, version="6.6"
)


_DARK = "    raise ValueError('it is dark')\n"
BLIND = storage(
    "blind",
    "from plugengine_overlay import *\nfrom plugengine.hookspecs import hookimpl\n"
    "@hookimpl\ndef pe_storage_usage(request, record):\n" + _DARK,
)


def blind_cgroup(name: str) -> Package:
    """Return a package with a bundled driver of control groups, but for its accounting."""
    source = f"from plugengine_cgroup_{name} import *\nfrom plugengine.hookspecs import hookimpl\n"
    source += "@hookimpl\ndef pe_cgroup_stats(record):\n" + _DARK
    return Package(name="pe-test-dark", source=source, points={"plugengine.cgroup:blind": "pe_test_dark"})


class Plugged(Pe):
    """The real `pe` with more packages on its path."""

    path: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "PYTHONPATH": str(self.path), "PLUGENGINE_WARM": "0"}


def plug(pe: Pe, path: Path, packages: list[Package]) -> Plugged:
    install(packages, path)
    plugged = Plugged(pe.root, pe.run_root)
    plugged.path = path
    return plugged


@pytest.fixture(scope="module")
def broken(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    """An environment with all of the broken drivers installed."""
    return plug(pe_env, tmp_path_factory.mktemp("broken") / "packages", BROKEN)


@pytest.mark.parametrize(
    ("name", "parts", "hint"),
    [
        ("torn", ["pe-test-torn 1.2", "import", "no_such_library"], "reinstall or remove pe-test-torn"),
        ("leaving", ["pe-test-leaving 1.2", "import", "SystemExit: enough"], "reinstall or remove"),
        ("empty", ["pe-test-empty 1.2", "pe_storage_info"], ""),
        ("misspelt", ["pe-test-misspelt 1.2", "pe_storage_prepair"], "plugengine.hookspecs"),
        ("mistaken", ["pe-test-mistaken 1.2", "colour"], "plugengine.hookspecs"),
        ("future", ["pe-test-future 1.2", "API 9.0"], "install a release of pe-test-future made for API 1"),
        ("odd", ["storage driver odd", "prepare", "int, not dict"], "a bug of pe-test-odd 1.2"),
        ("raising", ["storage driver raising", "prepare", "ZeroDivisionError"], "a bug of pe-test-raising 1.2"),
        ("quitting", ["storage driver quitting", "prepare", "SystemExit"], "a bug of pe-test-quitting 1.2"),
        ("unable", ["storage driver unable", "does not work on this host"], "the moon is full"),
        ("sloppy", ["storage driver sloppy", "prepare", "what is no JSON", "PosixPath"], "a bug of pe-test-sloppy 1.2"),
        ("vague", ["storage driver vague", "info", "got `int` - at `$.summary`"], "a bug of pe-test-vague 1.2"),
        ("lazy", ["pe-test-lazy 1.2", "has no pe_storage_prepare, which every storage driver must have"], "a fault of"),
        ("boastful", ["pe-test-boastful 1.2", "which a driver that claims native-diff must have"], "a fault of"),
        ("meddling", ["pe-test-meddling 1.2", "no such hook of a storage driver: pe_network_attach"], "a fault of"),
        ("silent", ["storage driver silent", "prepare", "returned None, not dict"], ""),
    ],
)
def test_a_broken_driver_is_refused_when_it_is_chosen(
    broken: Plugged, pe: Pe, name: str, parts: list[str], hint: str
) -> None:
    assert_refused(broken("run", "--rm", *NONE, "--storage", name, "host:base", "true"), ENGINE, *parts, hint=hint)


def test_a_driver_that_fails_in_the_middle_of_a_start_has_everything_before_it_undone(broken: Plugged, pe: Pe) -> None:
    done = broken("run", "--rm", "--network", "tangled", "host:base", "true")
    assert_refused(
        done, ENGINE, "network driver tangled", "attach", "ValueError: tangled up", hint="bug of pe-test-tangled 1.2"
    )


def test_broken_drivers_that_are_not_chosen_disturb_nobody(broken: Plugged, pe: Pe) -> None:
    done = broken("run", "--rm", *NONE, "host:base", "echo", "well", check=True)
    assert (done.stdout, done.stderr) == ("well\n", "")
    broken("ps", check=True)
    check, repair = (broken("system", "check", *words, check=True) for words in ((), ("--repair",)))
    assert check.stdout == repair.stdout
    assert "noted: storage driver torn of pe-test-torn 1.2: import" in check.stdout
    assert "noted: storage driver crashing of pe-test-crashing 1.2: the process that asked it ended" in check.stdout
    assert "unable" not in check.stdout, "that it does not work on this host is no fault"


def test_broken_drivers_are_lines_of_pe_drivers_and_the_others_are_as_ever(broken: Plugged, pe: Pe) -> None:
    done = broken("drivers", "--format", "json", check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {line["Name"]: line for line in lines if line["Kind"] == "storage"}
    for name in (
        "torn",
        "leaving",
        "empty",
        "misspelt",
        "mistaken",
        "future",
        "unable",
        "lazy",
        "boastful",
        "meddling",
    ):
        line = found[name]
        assert (line["Distribution"], line["Version"], line["Supported"]) == (f"pe-test-{name}", "1.2", "no")
        assert line["Reasons"]
        assert not line["Default"]
    crashed = "the process that asked it {} during storage driver {} of pe-test-{} 1.2: {}"
    assert found["crashing"]["Reasons"] == [crashed.format("ended with exit code 7", "crashing", "crashing", "import")]
    assert found["faulting"]["Reasons"] == [crashed.format("was killed by SIGSEGV", "faulting", "faulting", "probe")]
    known = [json.loads(line) for line in pe("drivers", "--format", "json", check=True).stdout.splitlines()]
    assert [line for line in lines if line["Distribution"] == "plugengine"] == known


def test_a_name_two_packages_offer_is_nobodys_and_both_are_named(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", [PRETENDER])
    done = plugged("run", "--rm", *NONE, "--storage", "overlay", "host:base", "true")
    assert_refused(done, ENGINE, "overlay", "pe-test-pretender 6.6 and plugengine", hint="uninstall one of them")
    assert plugged("run", "--rm", *NONE, "--storage", "fuse_union", "host:base", "echo", "well").stdout == "well\n"
    assert plugged("run", "--rm", *NONE, "host:base", "echo", "well").stdout == "well\n", "the next best is the default"
    lines = [json.loads(line) for line in plugged("drivers", "--format", "json", check=True).stdout.splitlines()]
    twice = [line for line in lines if line["Name"] == "overlay"]
    assert {line["Distribution"] for line in twice} == {"plugengine", "pe-test-pretender"}
    assert {line["Supported"] for line in twice} == {"no"}


def test_an_observer_that_cannot_be_imported_is_a_warning_and_one_that_raises_is_not_heard(
    pe: Pe, tmp_path: Path
) -> None:
    plugged = plug(pe, tmp_path / "packages", [TORN_OBSERVER, RAISING_OBSERVER])
    done = plugged("run", "--rm", *NONE, "host:base", "echo", "well", check=True)
    assert done.stdout == "well\n"
    assert "warning: hooks driver watcher of pe-test-watcher 1.2: import" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_driver_that_cannot_tell_costs_one_cell_and_the_reason_is_beside(pe: Pe, tmp_path: Path) -> None:
    [cgroup] = [
        line["Name"]
        for line in map(json.loads, pe("drivers", "--format", "json", check=True).stdout.splitlines())
        if line["Kind"] == "cgroup" and line["Default"]
    ]
    plugged = plug(pe, tmp_path / "packages", [BLIND, blind_cgroup(cgroup)])
    words = ("run", "-d", *NONE)
    plugged(*words, "--name", "unsized", "--storage", "blind", "host:base", "sleep", "60", check=True)
    plugged(*words, "--name", "unmeasured", "--cgroup", "blind", "host:base", "sleep", "60", check=True)
    try:
        sizes = dict(
            line.split(maxsplit=1)
            for line in plugged("ps", "--format", "{{.Names}} {{.Size}}", "-s").stdout.splitlines()
        )
        assert sizes["unsized"] == "-- (storage driver blind: usage: ValueError: it is dark)"
        assert sizes["unmeasured"].endswith("B")
        shown = plugged("stats", "--no-stream", "--format", "json", check=True).stdout
        found = {line["Name"]: line for line in map(json.loads, shown.splitlines())}
        assert found["unmeasured"]["Note"] == "cgroup driver blind: stats: ValueError: it is dark"
        assert found["unmeasured"]["NetIO"] == "0B / 0B"
        assert found["unmeasured"]["PIDs"] == "--"
        assert (found["unsized"]["Note"], found["unsized"]["PIDs"]) == ("", "1")
        assert "it is dark" in plugged("stats", "--no-stream", check=True).stdout
        sizes = dict(
            line.split(maxsplit=1) for line in pe("ps", "--format", "{{.Names}} {{.Size}}", "-s").stdout.splitlines()
        )
        assert sizes["unsized"] == "-- (storage driver blind: not installed)"
    finally:
        plugged("rm", "-f", "unsized", "unmeasured", check=True)


# It shows every container an empty tree: what others read through it is never what they wrote.
EMPTY = storage(
    "hollow",
    "from plugengine_overlay import *\nimport plugengine_overlay\nfrom plugengine.hookspecs import hookimpl\n"
    "from plugengine.model import Mount, Rootfs\n"
    "@hookimpl\ndef pe_storage_mounts(request, record):\n"
    "    return Rootfs(mounts=(Mount(fstype='tmpfs', source='tmpfs', target=request.target),))\n",
)


def test_a_driver_is_not_measured_by_what_strangers_make_of_its_layers(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", [EMPTY])
    cases = "read-by-others or written-by-others"
    done = plugged("driver", "test", "--kind", "storage", "overlay", "-k", cases)
    assert done.returncode == 0, done.stdout


def versioned(version: str, key: str, more: str = "") -> Package:
    """Return a driver whose records have another key in each version."""
    source = "import plugengine_overlay\nfrom plugengine_overlay import *\nfrom plugengine.hookspecs import hookimpl\n"
    source += "@hookimpl\ndef pe_storage_prepare(request):\n"
    source += f"    return {{**plugengine_overlay.pe_storage_prepare(request), {key!r}: 'kept'}}\n"
    for verb in ("mounts", "remove"):
        source += f"@hookimpl\ndef pe_storage_{verb}(request, record):\n    assert record[{key!r}] == 'kept'\n"
        source += f"    return plugengine_overlay.pe_storage_{verb}(request, record)\n"
    points = {"plugengine.storage:versioned": "pe_test_versioned"}
    return Package(name="pe-test-versioned", source=source + more, points=points, version=version)


UPGRADE = """
@hookimpl
def pe_storage_upgrade(record, version):
    assert version == "1.2"
    return {**record, "new": record["old"]}
"""


def test_a_record_of_another_version_of_a_driver_is_upgraded_or_named(pe: Pe, tmp_path: Path) -> None:
    first = plug(pe, tmp_path / "first", [versioned("1.2", "old")])
    name = first("create", "--storage", "versioned", *NONE, "host:base", "true", check=True).stdout.strip()
    second = plug(pe, tmp_path / "second", [versioned("2.0", "new")])
    done = second("start", name)
    assert done.returncode == 1
    assert "storage driver versioned: mounts: KeyError: 'new'" in done.stderr
    assert "hint: pe-test-versioned 1.2 has made the container, and pe-test-versioned 2.0 cannot read" in done.stderr
    third = plug(pe, tmp_path / "third", [versioned("2.1", "new", UPGRADE)])
    third("start", "-a", name, check=True)
    third("rm", name, check=True)


COMMANDS = Package(
    name="pe-test-orders",
    source="import click\nfrom plugengine.hookspecs import hookimpl\n"
    "@hookimpl\ndef pe_commands():\n"
    "    return {'fall': 'pe_test_orders:fall', 'miss': 'pe_test_orders:nothing', 'odd': 'pe_test_orders:hookimpl'}\n"
    "@click.command()\ndef fall():\n    {}['missing']\n",
    points={"plugengine.hooks:orders": "pe_test_orders"},
)
WRONG_COMMANDS = Package(
    name="pe-test-disorder",
    source="from plugengine.hookspecs import hookimpl\n@hookimpl\ndef pe_commands():\n    return ['word']\n",
    points={"plugengine.hooks:disorder": "pe_test_disorder"},
)


def test_a_command_of_a_plugin_that_fails_is_a_bug_of_its_distribution_and_not_of_pe(pe: Pe, tmp_path: Path) -> None:
    plugged = plug(pe, tmp_path / "packages", [COMMANDS, WRONG_COMMANDS])
    done = plugged("fall")
    assert done.returncode == ENGINE
    assert "pe: internal error: KeyError: 'missing'\nhint: this is a bug of pe-test-orders 1.2\n" in done.stderr
    assert "plugin disorder of pe-test-disorder 1.2: pe_commands: returned ['word']" in done.stderr
    for word, reason in (("miss", "AttributeError"), ("odd", "not a click command")):
        done = plugged(word)
        assert done.returncode == ENGINE
        assert f"command {word} of pe-test-orders 1.2" in done.stderr
        assert reason in done.stderr
    assert "pe-test-orders 1.2" in plugged("--help", check=True).stdout


def test_an_installed_driver_is_there_at_once_and_gone_when_it_is_removed(pe: Pe, tmp_path: Path) -> None:
    assert_refused(pe("run", "--rm", *NONE, "--storage", "lazy", "host:base"), ENGINE, "not installed")
    plugged = plug(pe, tmp_path / "packages", [storage("lazy", UNFINISHED)])
    assert "lazy" in plugged("drivers", "-q", check=True).stdout.split()
    assert "lazy" not in pe("drivers", "-q", check=True).stdout.split()


COUNTING = """
from msgspec.structs import replace
import {module} as borrowed
from {module} import *
from plugengine import API_VERSION, DriverInfo, hookimpl

@hookimpl
def pe_cgroup_info():
    return DriverInfo(api_version=API_VERSION, summary="counts something more", rank=-1)

@hookimpl
def pe_cgroup_stats(record):
    return replace(borrowed.pe_cgroup_stats(record), extra={{"throttled": 7}})
"""


def test_what_a_cgroup_driver_counts_beyond_the_others_is_shown(pe: Pe, tmp_path: Path) -> None:
    version = next(name for name in ("v2", "v1") if name in supported("cgroup"))
    source = COUNTING.format(module=f"plugengine_cgroup_{version}")
    package = Package(name="pe-test-counting", source=source, points={"plugengine.cgroup:counting": "pe_test_counting"})
    plugged = plug(pe, tmp_path / "packages", [package])
    run = ("run", "-d", "--net", "none", "--cgroup", "counting", "host:base", "sleep", "100")
    name = plugged(*run, check=True).stdout.strip()
    try:
        row = json.loads(plugged("stats", "--no-stream", "--format", "json", name, check=True).stdout)
        assert row["DriverStats"] == {"throttled": 7}
    finally:
        plugged("rm", "-f", name)
