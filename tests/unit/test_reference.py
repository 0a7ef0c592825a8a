"""The pages written from the code are what the code says."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from plugengine import hookspecs

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "docs" / "generators" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("cli_reference", "reference/cli.md"),
        ("hooks_reference", "hooks.md"),
        ("benchmark_workloads", "benchmark-workloads.md"),
    ],
)
def test_a_page_is_what_the_code_says(name: str, page: str) -> None:
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == script(name).render(), (
        f"run: python docs/generators/{name}.py"
    )


@pytest.mark.parametrize("name", ["bench-results.schema.json", "conformance-report.schema.json"])
def test_a_schema_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == script("schemas").render(name), "run: python docs/generators/schemas.py"


@pytest.mark.parametrize(
    "shown", ["One.\n\nTwo:\nthree", "One.\n\n    Two:\n    three"], ids=["without indentation", "as in the source"]
)
def test_a_schema_does_not_depend_on_how_msgspec_shows_docstrings(shown: str) -> None:
    schema = {"$defs": {"A": {"anyOf": [{"description": shown}], "properties": {"description": {"type": "string"}}}}}
    assert script("schemas").dedented(schema) == {
        "$defs": {
            "A": {"anyOf": [{"description": "One.\n\nTwo:\nthree"}], "properties": {"description": {"type": "string"}}}
        }
    }


def test_every_command_has_its_heading() -> None:
    page = script("cli_reference").render()
    for heading in ("## pe run", "## pe exec", "## pe image inspect", "## pe system check", "## pe layer apply"):
        assert f"\n{heading}\n" in page


def test_every_hook_has_a_heading_and_its_exact_signature() -> None:
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    for spec in hookspecs.SPECS.values():
        for name, function in vars(spec).items():
            if name.startswith("pe_"):
                section = page.partition(f"\n### {name}\n")[2].partition("\n#")[0]
                shown = section.partition("```python\ndef ")[2].partition("\n```")[0]
                parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
                wanted = f"{name}({', '.join(str(each).replace(chr(39), '') for each in parameters)})"
                assert "".join(shown.split()).startswith("".join(wanted.split())), name
