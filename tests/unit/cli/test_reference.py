from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]


def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_cli_reference", ROOT / "docs" / "make_cli_reference.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert page == script().render(), "run: python docs/make_cli_reference.py"


def test_every_command_has_its_heading() -> None:
    page = script().render()
    for heading in ("## pe run", "## pe exec", "## pe image inspect", "## pe system check", "## pe layer apply"):
        assert f"\n{heading}\n" in page
