"""Fixtures for every test: the real `pe`, engine roots of their own, and the rule for skips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_S

try:
    import hypothesis
except ModuleNotFoundError:  # in the machines that tests boot
    pass
else:
    # How long an example takes is the machine's business; a failure is said so that it can be repeated elsewhere.
    hypothesis.settings.register_profile(
        "plugengine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
    )
    hypothesis.settings.load_profile("plugengine")


def need(reason: str | None) -> None:
    """Skip with the reason, or fail where everything is expected to run (PE_MUST_RUN=1)."""
    if reason and os.environ.get("PE_MUST_RUN"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def need_root() -> None:
    """Skip without root."""
    need(None if os.geteuid() == 0 else "needs root")


def need_tool(name: str) -> str:
    """Return the path of a program, or skip."""
    found = shutil.which(name)
    need(None if found else f"needs {name} in PATH")
    return found or name


@dataclass
class Pe:
    """Runs the real command line against roots of its own."""

    root: Path
    run_root: Path

    def command(self, *args: str) -> list[str]:
        """Return the full command line."""
        return [os.path.join(os.path.dirname(sys.executable), "pe"), *args]

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment that selects the roots."""
        return {**os.environ, "PLUGENGINE_ROOT": str(self.root), "PLUGENGINE_RUN_ROOT": str(self.run_root)}

    def __call__(
        self, *args: str, check: bool = False, timeout: float = PATIENCE_S, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `pe args…`; text output captured; stdin is empty unless `input` is given."""
        if "input" not in kwargs:
            kwargs.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(
            self.command(*args),
            env=self.environ,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            **kwargs,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"pe {' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def popen(self, *args: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start `pe args…` and return at once."""
        return subprocess.Popen(self.command(*args), env=self.environ, text=True, **kwargs)

    def clean(self) -> None:
        """Remove every container, then the roots."""
        ids = self("ps", "-aq").stdout.split()
        if ids:
            self("rm", "-f", *ids)


@pytest.fixture(scope="session")
def pe_env() -> Iterator[Pe]:
    """Engine roots shared by the whole run: images are built once."""
    need_root()
    base = Path(tempfile.mkdtemp(prefix="pe-test-"))
    engine = Pe(base / "root", base / "run")
    try:
        yield engine
    finally:
        engine.clean()
        subprocess.run(
            engine.command("system", "reset", "--force"), env=engine.environ, check=False, capture_output=True
        )
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def pe(pe_env: Pe) -> Pe:
    """The real `pe` with the shared image store."""
    return pe_env
