"""The workloads' descriptions hold together, and their files are the same each time."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from plugengine.bench import catalog
from plugengine.bench.results import HIGHER, LOWER
from plugengine.bench.targets import answer
from plugengine.bench.workload import GUEST, Inside, Size, Workload
from plugengine.bench.workloads import BUNDLED
from plugengine.bench.workloads.content import write_noise, write_sources, write_tree
from plugengine.bench.workloads.packages import write_package
from plugengine.errors import DriverLoadError, PlugengineError
from plugengine.model import HostPath

WORKLOADS = [catalog.load(name, target) for name, target in BUNDLED.items()]


def digest(directory: Path) -> str:
    """Return a digest of names and contents."""
    found = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        found.update(str(path.relative_to(directory)).encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each.name)
@pytest.mark.parametrize("size", Size, ids=lambda each: each.value)
def test_a_workload_describes_itself_in_every_size(workload: Workload, size: Size) -> None:
    row = workload.row(size)
    assert row.name == workload.name
    assert row.title
    assert row.group
    assert "{" not in row.sentence
    assert row.better in (LOWER, HIGHER)
    assert row.unit in ("s", "B", "B/s", "1/s", "%")
    assert workload.__doc__
    assert set(workload.full) == set(workload.quick)
    assert all(workload.quick[name] <= value for name, value in workload.full.items())


@pytest.mark.parametrize(
    "workload", [each for each in WORKLOADS if isinstance(each, Inside)], ids=lambda each: each.name
)
def test_a_function_that_a_workload_names_is_in_its_script(workload: Inside) -> None:
    tree = ast.parse(Path(workload.script).read_text())
    assert workload.function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_workloads_of_one_area_agree_on_its_files() -> None:
    areas: dict[str, set[tuple[object, tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]]] = {}
    for each in WORKLOADS:
        if each.area:
            build = type(each).build
            areas.setdefault(each.area, set()).add((build, tuple(each.full.items()), tuple(each.quick.items())))
    assert all(len(found) == 1 for found in areas.values()), areas


@pytest.mark.parametrize("script", sorted(Path(GUEST).glob("*.py")), ids=lambda path: path.name)
def test_what_runs_inside_uses_the_standard_library_only(script: Path) -> None:
    tree = ast.parse(script.read_text(), feature_version=(3, 8))
    unchecked = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and id(node) not in unchecked:
            names = [node.module or ""]
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_tree(path, 250),
        lambda path: write_tree(path, 30, flat=True),
        lambda path: write_sources(path, 120),
        lambda path: write_noise(HostPath(f"{path}/noise"), (1 << 20) + 5),
    ],
    ids=["tree", "flat", "sources", "noise"],
)
def test_files_of_the_image_are_the_same_each_time(tmp_path: Path, write: object) -> None:
    assert callable(write)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(HostPath(str(tmp_path / name)))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_sources_are_python(tmp_path: Path) -> None:
    write_sources(HostPath(str(tmp_path)), 3)
    sources = list(tmp_path.rglob("*.py"))
    assert len(sources) >= 3
    for path in sources:
        compile(path.read_text(), str(path), "exec")


def test_a_package_is_what_dpkg_reads(tmp_path: Path) -> None:
    tree, package = tmp_path / "tree", tmp_path / "found.deb"
    write_sources(HostPath(str(tree)), 5)
    write_package(str(package), HostPath(str(tree)))
    content = package.read_bytes()
    assert content.startswith(b"!<arch>\ndebian-binary   ")
    begin = content.index(b"data.tar.gz")
    size = int(content[begin + 48 : begin + 58])
    data = io.BytesIO(gzip.decompress(content[begin + 60 : begin + 60 + size]))
    with tarfile.open(fileobj=data) as archive:
        names = archive.getnames()
    assert "./opt/bench/package0/module4.py" in names
    again = tmp_path / "again.deb"
    write_package(str(again), HostPath(str(tree)))
    assert again.read_bytes() == content


def test_the_agent_says_one_line_of_what_a_function_measured(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\ndef fine(job):\n  print('noise')\n  with job.timed():\n    os.listdir(job.work)\n"
        "def rate(job):\n  return job.sizes['things'] * 2\ndef bad(job):\n  raise OSError(28, 'no space', 'here')\n"
    )

    def ask(function: str) -> float:
        request = {
            "script": str(script),
            "function": function,
            "root": "/",
            "area": str(tmp_path / "none"),
            "work": str(tmp_path / "work"),
            "sizes": {"things": 21},
            "deadline_s": 10,
        }
        command = [sys.executable, "-ISB", f"{GUEST}/agent.py", json.dumps(request)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert not (tmp_path / "work").exists()
        return answer(done.stdout, done.returncode)

    assert 0 < ask("fine") < 1
    assert ask("rate") == 42
    with pytest.raises(PlugengineError, match="no space"):
        ask("bad")
    with pytest.raises(PlugengineError, match="exit code 1"):
        ask("missing")


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        (b"", 137, "exit code 137: it said nothing"),
        (b'\n{"value": 1}\n', 1, "exit code 1"),
        (b"Traceback\nboom", 0, "boom"),
        (b"7\n", 0, "7"),
        (b'{"error": "why"}', 0, "^why$"),
    ],
)
def test_an_agent_that_gives_no_value_is_an_error_with_its_words(output: bytes, code: int, said: str) -> None:
    with pytest.raises(PlugengineError, match=said):
        answer(output, code)


def test_a_workload_of_another_name_is_refused() -> None:
    with pytest.raises(DriverLoadError, match="not a plugengine"):
        catalog.load("walk", BUNDLED["walk-cold"])
