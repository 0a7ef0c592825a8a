"""A driver's author begins: `pe driver new`, install, list, test, run, uninstall, as a new user would."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.environments import Environment
from tests.system.test_bad_input import ENGINE, assert_refused

KINDS = ("storage", "network", "cgroup", "namespace", "runtime")
FLAGS = {
    "storage": "--storage",
    "network": "--net",
    "cgroup": "--cgroup",
    "namespace": "--namespace",
    "runtime": "--runtime",
}
MOST_LINES = 150
TOO_LONG_S = 300


def code_lines(path: Path) -> int:
    """Count the lines that are code: neither blank, comment nor docstring."""
    text = path.read_text()
    docs = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for number, line in lines if number not in docs and line.strip() and not line.strip().startswith("#"))


@pytest.mark.slow
@pytest.mark.timeout(TOO_LONG_S)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_driver_installs_passes_the_kit_runs_a_container_and_goes(pe: Pe, tmp_path: Path, kind: str) -> None:
    name = f"acme_{kind}"
    environment = Environment(tmp_path / "venv")
    made = environment.run(pe, "pe", "driver", "new", kind, name, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    project = tmp_path / f"plugengine-acme-{kind}"
    for line in made.stdout.split("\n\n", maxsplit=1)[0].splitlines():
        assert (tmp_path / line).is_file(), line
    assert code_lines(project / "src" / f"plugengine_{name}" / "__init__.py") <= MOST_LINES

    environment.install_editable(project)
    listed = environment.run(pe, "pe", "drivers", "--format", "{{.Kind}} {{.Name}} {{.Distribution}} {{.Supported}}")
    assert f"{kind} {name} plugengine-acme-{kind} yes" in listed.stdout, listed.stdout + listed.stderr

    tested = environment.run(pe, "pe", "driver", "test", name, "--quiet", timeout=TOO_LONG_S)
    assert tested.returncode == 0, tested.stdout + tested.stderr

    storage = () if kind == "network" else ("--net", "none")
    ran = environment.run(pe, "pe", "run", "--rm", *storage, FLAGS[kind], name, "host:base", "echo", "hello")
    assert ran.stdout == "hello\n", ran.stderr

    environment.pip("uninstall", "--yes", f"plugengine-acme-{kind}")
    gone = environment.run(pe, "pe", "run", "--rm", FLAGS[kind], name, "host:base", "true")
    assert gone.returncode != 0
    assert name in gone.stderr


def test_the_conformance_tests_of_a_new_driver_run_under_pytest(pe: Pe, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.run(pe, "pe", "driver", "new", "storage", "acme_snap", cwd=tmp_path)
    project = tmp_path / "plugengine-acme-snap"
    environment.install_editable(project)
    done = environment.run(
        pe, "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "remove", cwd=project, timeout=TOO_LONG_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "storage.contract.remove-twice"
        in environment.run(pe, "python", "-m", "pytest", "-q", "--collect-only", "-k", "remove", cwd=project).stdout
    )


@pytest.mark.parametrize("name", ["", "Acme", "acme-snap", "../acme", "2fast", "a" * 41, "acme snap"])
def test_a_name_that_cannot_be_one_is_refused(pe: Pe, tmp_path: Path, name: str) -> None:
    refused = pe("driver", "new", "--directory", str(tmp_path / "new"), "--", "storage", name)
    assert_refused(refused, ENGINE, "not a name for a driver")
    assert not (tmp_path / "new").exists()


def test_a_kind_that_is_misspelt_gets_its_near_miss(pe: Pe, tmp_path: Path) -> None:
    done = pe("driver", "new", "storrage", "acme", "--directory", str(tmp_path / "new"))
    assert done.returncode != 0
    assert "did you mean storage?" in done.stderr


def test_a_directory_with_something_in_it_is_not_touched(pe: Pe, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("mine")
    done = pe("driver", "new", "storage", "acme", "--directory", str(tmp_path))
    assert done.returncode != 0
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]
    assert (tmp_path / "pyproject.toml").read_text() == "mine"
