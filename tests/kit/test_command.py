"""`pe driver test`: finds the driver, runs the kit, tells by its exit code, and writes reports."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import Pe, need_root
from tests.system.packages import Package, install

BAD = """
import os
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import DriverInfo, Rootfs, Usage

@hookimpl
def pe_storage_info():
    return DriverInfo(api_version=API_VERSION, summary="a test's", rank=-1)

@hookimpl
def pe_storage_probe(host):
    return ()

@hookimpl
def pe_storage_prepare(request):
    os.chdir("/etc")
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
UNABLE = BAD.replace("return ()", "return ('the moon is full',)")
NETWORK = """
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.model import DriverInfo

@hookimpl
def pe_network_info():
    return DriverInfo(api_version=API_VERSION, summary="a test's", rank=-1)
"""


class Plugged(Pe):
    packages: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "PYTHONPATH": str(self.packages)}


@pytest.fixture(scope="module")
def plugged(pe_env: Pe, tmp_path_factory: pytest.TempPathFactory) -> Plugged:
    need_root()
    plugged = Plugged(pe_env.root, pe_env.run_root)
    plugged.packages = tmp_path_factory.mktemp("kit") / "packages"
    packages = [
        ("bad", BAD, {"plugengine.storage:bad": "pe_test_bad"}),
        ("unable", UNABLE, {"plugengine.storage:unable": "pe_test_unable"}),
        ("twin", BAD, {"plugengine.storage:twin": "pe_test_twin"}),
        ("twin2", NETWORK, {"plugengine.network:twin": "pe_test_twin2"}),
        ("torn", "import no_such_library\n", {"plugengine.storage:torn": "pe_test_torn"}),
    ]
    install(
        [Package(name=f"pe-test-{name}", source=source, points=points) for name, source, points in packages],
        plugged.packages,
    )
    return plugged


CHOSEN = ("-k", "contract.prepare-twice or contract.options")


def test_all_passed_is_exit_code_0_with_a_line_for_each_case_and_a_summary(pe: Pe) -> None:
    done = pe("driver", "test", "overlay", *CHOSEN)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [re.sub(r"[0-9.]+ s", "T", line) for line in lines[:-1]] == [
        "passed      T  storage.contract.options",
        "passed      T  storage.contract.prepare-twice",
        lines[-2],
    ]
    assert re.fullmatch(r"storage driver overlay of plugengine \S+: 2 passed", lines[-2])
    assert re.fullmatch(r"[0-9.]+ s on \S+, Linux \S+", lines[-1])


def test_a_failed_case_is_exit_code_1_and_is_told_at_length(plugged: Plugged) -> None:
    done = plugged("driver", "test", "bad", "-k", "prepare-twice", "--quiet")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("F\n\nstorage.contract.prepare-twice: ")
    assert "pe_storage_prepare changed the working directory from" in done.stdout
    assert "storage driver bad of pe-test-bad 1.2: 1 failed" in done.stdout


def test_a_driver_that_does_not_work_here_is_exit_code_125_with_the_reasons(plugged: Plugged) -> None:
    done = plugged("driver", "test", "unable")
    assert done.returncode == 125
    assert "not supported here\n    the moon is full\n" in done.stdout


def test_no_case_at_all_is_no_success(pe: Pe) -> None:
    done = pe("driver", "test", "overlay", "-k", "no-such-case")
    assert done.returncode == 125
    assert "no cases" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["overlai"], 125, "driver overlai: not installed", "did you mean overlay?"),
        (["overlai", "--kind", "storage"], 125, "storage driver overlai: not installed", "did you mean overlay?"),
        (["torn"], 125, "storage driver torn of pe-test-torn 1.2: import", "reinstall or remove"),
        (["twin"], 125, "driver twin: there is one for storage and network", "--kind"),
        (["overlay", "--kind", "disk"], 125, "--kind disk: not a kind", "storage, network, cgroup, namespace"),
        (["overlay", "-k", "a and"], 125, "-k 'a and': ends too early", "an example"),
        (["overlay", "--jobs", "0"], 2, "--jobs 0: not a number above 0", "--jobs 4"),
        (["overlay", "--patience", "0.5"], 2, "--patience 0.5: not between 1 and", "--patience 4"),
        (["overlay", "--patience", "nan"], 2, "--patience nan: not between 1 and", "--patience 4"),
        (["overlay", "--option", "size"], 2, "--option size: not NAME=VALUE", "size=1g"),
        (["overlay", "--report", "x.pdf"], 2, "--report x.pdf: not a kind of report", ".json, .html or .svg"),
        (["overlay", "--filesystem", "vfat"], 125, "--filesystem vfat: not one that can be made", "btrfs"),
        (["overlay", "--directory", "/no/such"], 125, "--directory /no/such: no such file", ""),
        ([], 2, "missing argument", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_understood_is_said_with_a_hint(
    plugged: Plugged, words: list[str], code: int, message: str, hint: str
) -> None:
    done = plugged("driver", "test", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert hint in done.stderr


def test_the_kind_chooses_among_drivers_of_one_name(plugged: Plugged) -> None:
    done = plugged("driver", "test", "twin", "--kind", "storage", "-k", "prepare-twice", "-q")
    assert "storage driver twin of pe-test-twin" in done.stdout


def test_reports_are_written_in_the_form_their_names_say(pe: Pe, tmp_path: Path) -> None:
    names = [str(tmp_path / f"report.{end}") for end in ("json", "html", "svg")]
    pe("driver", "test", "overlay", *CHOSEN, *(word for name in names for word in ("--report", name)), check=True)
    report = json.loads(Path(names[0]).read_text())
    assert [outcome["verdict"] for outcome in report["outcomes"]] == ["passed"] * 2
    assert Path(names[1]).read_text().startswith("<!doctype html>")
    assert "2 passed" in Path(names[2]).read_text()
    assert sorted(os.listdir(tmp_path)) == ["report.html", "report.json", "report.svg"]


def test_a_report_that_cannot_be_written_is_an_error(pe: Pe) -> None:
    done = pe("driver", "test", "overlay", *CHOSEN, "--report", "/no/such/report.json")
    assert (done.returncode, done.stdout) == (125, ""), "said before the testing"
    assert "pe: write report /no/such/report.json: no such directory" in done.stderr


def test_the_list_has_every_case_and_says_which_are_left_out(pe: Pe) -> None:
    done = pe("driver", "test", "overlay", "--list", check=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 20
    assert all(re.match(r"storage\.\S+  \S", line) for line in lines)
    names = [line.split()[0] for line in lines]
    assert names == sorted(names)
    none = pe("driver", "test", "none", "--list", check=True).stdout
    assert "(not claimed: ports)" in none


def test_options_reach_the_driver(pe: Pe) -> None:
    done = pe("driver", "test", "overlay", "-k", "prepare-twice", "-q", "--option", "colour=red")
    assert done.returncode == 1
    assert "colour" in done.stdout


def test_a_driver_without_an_option_it_needs_is_told_which(pe: Pe) -> None:
    done = pe("driver", "test", "macvlan")
    assert done.returncode == 125
    assert "needs --option parent=…: link of the host" in done.stdout
