"""An environment of Python's own for a test: it has all that the running one has, and what the test installs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conftest import Pe
from tests.waiting import PATIENCE_S


class Environment:
    """A virtual environment on top of the one the tests run in."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        self.python = directory / "bin" / "python"
        own = next((directory / "lib").glob("python*/site-packages"))
        # Not just a directory on the path: an editable install is a .pth file in it, and addsitedir reads those.
        base = sysconfig.get_path("purelib")
        (own / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
        # Where pip puts scripts of its own, and where people have `pe`.
        (directory / "bin" / "pe").write_text(
            f"#!{self.python}\nimport sys\nfrom plugengine.cli import main\nsys.exit(main())\n"
        )
        (directory / "bin" / "pe").chmod(0o755)
        self.bin = directory / "bin"

    def pip(self, *words: str) -> None:
        """Run pip: nothing is looked for elsewhere."""
        command = [str(self.python), "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def install_editable(self, project: Path) -> None:
        """Do what `pip install -e .` does, with the build backend that is there."""
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", "-e", str(project))

    def environ(self, pe: Pe) -> dict[str, str]:
        """Return the environment in which its commands are found first and `pe` has the roots of another."""
        return {**pe.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "PLUGENGINE_WARM": "0"}

    def run(
        self, pe: Pe, *words: str, cwd: Path | None = None, timeout: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands."""
        command = [str(self.bin / words[0]) if (self.bin / words[0]).exists() else words[0], *words[1:]]
        return subprocess.run(
            command, env=self.environ(pe), cwd=cwd, check=False, capture_output=True, text=True, timeout=timeout
        )
