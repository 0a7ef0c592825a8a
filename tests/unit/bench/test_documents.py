"""The results file is documented field by field."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from plugengine.bench.results import Cell, Column, Machine, Run, Workload

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "benchmarks.md"


def table(heading: str) -> str:
    """Return the table of the page with this heading."""
    return PAGE.read_text(encoding="utf-8").partition(f"\n| {heading} | |\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("field", Run),
        ("field of `machine`", Machine),
        ("field of a column", Column),
        ("field of a workload", Workload),
        ("field of a cell", Cell),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_field_is_in_its_table_and_nothing_else(heading: str, kind: type[msgspec.Struct]) -> None:
    firsts = [line.split("|")[1] for line in table(heading).splitlines() if not line.startswith("|---")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(firsts))) == sorted(kind.__struct_fields__)
