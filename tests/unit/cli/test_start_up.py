"""Start-up is a headline: what `pe run` imports is counted."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Modules `pe run` has no use for before it calls the engine; each once crept in, or costs more than it gives.
UNWANTED = {
    "json",
    "locale",
    "traceback",
    "argparse",
    "subprocess",
    "sqlite3",
    "asyncio",
    "logging",
    "hashlib",
    "tarfile",
    "importlib.metadata",
    "pyroute2",
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    "e2b_dockerfile_utils",
    "plugengine.engine",
    "plugengine.operations.lifecycle",
    "plugengine.images",
    "plugengine.cli.gotemplate",
    "plugengine.cli.templatewords",
    "plugengine.cli.families",
    "plugengine.cli.commands.ps",
}

PARSE = """
import sys
from plugengine.cli.app import App
from plugengine.cli.program import root
from plugengine.cli.commands import run

given = ["--rm", "-it", "-m", "64m", "-p", "8080:80", "-v", "./x:/x", "-e", "A=b", "--net", "none", "image", "true"]
context = run.run.make_context("run", given)
values = dict(context.params)
run._spec(App(environ={}), values.pop("words"), values)
print("\\n".join(sys.modules))
"""


def test_parsing_a_run_imports_nothing_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-S", "-c", _with_path(PARSE)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "plugengine.cli.spec" in loaded
    assert not loaded & UNWANTED


def test_the_entry_point_imports_nothing_before_it_is_called() -> None:
    text = _with_path("import sys; before = set(sys.modules); import plugengine.cli; print(*set(sys.modules) - before)")
    done = subprocess.run([sys.executable, "-S", "-c", text], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.startswith("plugengine")} == {"plugengine", "plugengine.cli"}
    assert "click" not in done.stdout.split()


@pytest.mark.parametrize("module", sorted(UNWANTED))
def test_what_must_not_be_imported_could_be(module: str) -> None:
    """A module that no longer exists would make the first test pass for nothing."""
    import importlib.util

    assert importlib.util.find_spec(module) is not None


def _with_path(text: str) -> str:
    return f"import sys; sys.path[:] = {sys.path!r}\n{text}"
