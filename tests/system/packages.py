"""Small distributions made on the fly: real wheels, installed by the real pip."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct


class Package(Struct, frozen=True, kw_only=True):
    """One distribution with one module."""

    name: str
    source: str
    points: Mapping[str, str]  # "plugengine.storage:NAME": "module" or "module:attribute"
    version: str = "1.2"

    @property
    def module(self) -> str:
        """The name its module is imported by."""
        return self.name.replace("-", "_")


def build_wheel(package: Package, directory: Path) -> Path:
    """Write a wheel; see the "Binary distribution format" of the Python packaging user guide."""
    info = f"{package.module}-{package.version}.dist-info"
    groups: dict[str, list[str]] = {}
    for point, target in package.points.items():
        group, _, name = point.partition(":")
        groups.setdefault(group, []).append(f"{name} = {target}")
    points = "".join(f"[{group}]\n" + "".join(f"{line}\n" for line in lines) for group, lines in groups.items())
    files = {
        f"{package.module}.py": package.source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text.encode())}\n" for name, text in files.items())
    wheel = directory / f"{package.module}-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return wheel


def install(packages: list[Package], target: Path) -> None:
    """Install packages into a directory for PYTHONPATH, without looking anywhere else."""
    wheels = target.with_suffix(".wheels")
    wheels.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-index", "--no-deps", "--target", str(target)),
            *(str(build_wheel(package, wheels)) for package in packages),
        ],
        check=True,
    )


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
