"""What is built holds all of it and nothing else, and works where only it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import Pe, need

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = {path.name for path in (ROOT / "drivers").glob("*/plugengine_*") if path.is_dir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions from the sources that are checked in, without a network."""
    need(None if importlib.util.find_spec("hatchling") else "needs hatchling: pip install -e '.[dev]'")
    base = tmp_path_factory.mktemp("build")
    sources = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, sources.decode().split("\0")):
        if (ROOT / name).exists():
            target = base / "sources" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(base / "dist")],
        cwd=base / "sources",
        check=True,
        capture_output=True,
    )
    return base


def one(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def test_the_wheel_has_the_core_every_driver_and_nothing_else_at_the_top(built: Path) -> None:
    with zipfile.ZipFile(one(built / "dist", "*.whl")) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith((".dist-info", ".data"))}
    assert packages == {"plugengine", *DRIVERS}
    assert any(name.endswith(".data/scripts/pe") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".so")) or "/tests/" in name]


def test_the_wheel_has_every_module_that_is_in_the_sources(built: Path) -> None:
    with zipfile.ZipFile(one(built / "dist", "*.whl")) as wheel:
        names = set(wheel.namelist())
    sources = built / "sources"
    core = {str(path.relative_to(sources)) for path in (sources / "plugengine").rglob("*") if path.is_file()}
    drivers = {
        str(path.relative_to(folder.parent))
        for folder in sources.glob("drivers/*/plugengine_*")
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert core | drivers <= names
    assert "plugengine/py.typed" in names


def test_the_sdist_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    with tarfile.open(one(built / "dist", "*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=one(tmp_path, "plugengine-*"),
        check=True,
        capture_output=True,
    )
    with (
        zipfile.ZipFile(one(tmp_path / "dist", "*.whl")) as again,
        zipfile.ZipFile(one(built / "dist", "*.whl")) as wheel,
    ):
        assert sorted(again.namelist()) == sorted(wheel.namelist())


@pytest.mark.slow
def test_a_container_runs_from_the_wheel_alone(built: Path, pe: Pe, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    install = ["install", "--quiet", "--no-index", "--no-deps", str(one(built / "dist", "*.whl"))]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), *install], check=True)
    # The dependencies come from here; the engine itself is found in the new environment first.
    (one(venv, "lib/python*/site-packages") / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environ = {**pe.environ, "PLUGENGINE_WARM": "0", "PATH": os.environ["PATH"]}
    environ.pop("PYTHONPATH", None)

    def installed(*words: str) -> str:
        done = subprocess.run(
            [str(venv / "bin/pe"), *words], env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    where = [str(venv / "bin/python"), "-c", "import plugengine; print(plugengine.__file__)"]
    assert subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.startswith(str(venv))
    for storage in ("overlay", "fuse_union"):
        assert installed("run", "--rm", "--storage", storage, "--net", "none", "host:base", "echo", "well") == "well\n"
    assert installed("drivers", "-q").split() == pe("drivers", "-q", check=True).stdout.split()
