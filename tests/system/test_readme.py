"""What the README shows is run, as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import eventually
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def block(kind: str, after: str = "") -> str:
    """Return the first block of code of a kind, after some text."""
    found = re.search(rf"```{kind}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def environ(pe: Pe) -> Iterator[dict[str, str]]:
    """The environment of a reader who has just installed it."""
    yield {**pe.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    pe.clean()


def shell(line: str, environ: dict[str, str]) -> str:
    """Run a line and return what a reader sees on the screen."""
    done = subprocess.run(
        ["sh", "-c", f"exec 2>&1; {line}"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}"
    return done.stdout


def test_the_tour_runs_as_it_stands(pe: Pe, environ: dict[str, str]) -> None:
    lines = block("sh", "<!-- tour -->").splitlines()
    assert len(lines) == 10
    said = {}
    for line in lines:
        said[line] = shell(line, environ)
        if "-p 8080:8000" in line:
            eventually(lambda: answers("http://127.0.0.1:8080/"))
    output = list(said.values())
    assert output[0] == "hello\n"
    assert "web" in output[2]
    assert output[3] == "from inside\n"
    assert "uid=0" in output[4]
    assert output[5].split()[1] != "0", "mapped"
    assert "GET / HTTP" in output[6]
    assert "overlay" in output[9]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_first_command_prints_what_the_readme_shows(pe: Pe, environ: dict[str, str]) -> None:
    command, *output = block("console").splitlines()
    assert shell(command.removeprefix("# "), environ).splitlines() == output


def test_the_library_snippet_runs_as_it_stands(pe: Pe, environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("python")],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_folder_and_page_named_is_there() -> None:
    names = re.findall(r"^\| ((?:`[^`]+/`(?:, )?)+) \|", README, re.MULTILINE)
    folders = [name for cell in names for name in re.findall(r"`([^`]+)`", cell)]
    assert len(folders) >= 7
    pages = re.findall(r"\]\(([^):#]+)", README)
    for name in [*folders, *pages]:
        assert (ROOT / name).exists(), name


def test_the_bundled_drivers_named_are_those_there_are(pe: Pe) -> None:
    table = README[README.index("| kind |") :].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines()[2:]]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row[3])}
    assert named == set(pe("drivers", "-q", check=True).stdout.split())
