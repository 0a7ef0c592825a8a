"""Write the project of a new driver: a pip package that installs, passes the conformance kit, and is to be changed."""

from __future__ import annotations

import os
import re
from string import Template
from typing import Final

from plugengine.errors import ConflictError, UsageError
from plugengine.model import HostPath, Kind

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TEMPLATES: Final = os.path.join(os.path.dirname(__file__), "templates")
_FLAGS: Final = {kind: "net" if kind is Kind.NETWORK else kind.value for kind in Kind}
_SHORT: Final = 5  # characters of the name that fit into the name of a link, beside a kind and a sum


def create_project(kind: Kind, name: str, directory: HostPath) -> list[str]:
    """Write the project and return its files, relative to the directory.

    Args:
        kind: Which template.
        name: The driver's name, as after `--storage`; the package is "plugengine-NAME", the module "plugengine_NAME".
        directory: Made; it must not exist, or be empty.

    Raises:
        UsageError: The name is no word of small letters, digits and underscores.
        ConflictError: The directory has something in it.
        OSError: As the kernel says.
    """
    if not _NAME.fullmatch(name):
        hint = "small letters, digits and underscores, a letter first, such as acme_snap"
        raise UsageError(f"driver name {name!r}: not a name for a driver", hint=hint)
    if os.path.lexists(directory) and (not os.path.isdir(directory) or os.listdir(directory)):
        raise ConflictError(f"directory {directory}: not empty", hint="choose another with --directory")
    words = _words(kind, name)
    module = words["module"]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        ".github/workflows/test.yml": "ci.yml",
        f"src/{module}/__init__.py": f"{kind.value}.py",
        "tests/test_conformance.py": "test_conformance.py",
    }
    for path, template in files.items():
        _write(os.path.join(directory, path), _filled(template, words))
    marker = f"src/{module}/py.typed"
    _write(os.path.join(directory, marker), "")
    return sorted((*files, marker))


def _words(kind: Kind, name: str) -> dict[str, str]:
    from importlib.metadata import version

    parts = name.strip("_").split("_")
    return {
        "kind": kind.value,
        "flag": _FLAGS[kind],
        "name": name,
        "module": f"plugengine_{name}",
        "distribution": f"plugengine-{name.replace('_', '-')}",
        "title": " ".join(parts),
        "variable": "_".join(parts).upper(),
        "short": "".join(parts)[:_SHORT],
        "class_name": kind.value.capitalize(),
        "test_name": "".join(part.capitalize() for part in parts),
        "engine": version("plugengine"),
    }


def _filled(template: str, words: dict[str, str]) -> str:
    with open(os.path.join(_TEMPLATES, f"{template}.template"), encoding="utf-8") as stream:
        return Template(stream.read()).substitute(words)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
