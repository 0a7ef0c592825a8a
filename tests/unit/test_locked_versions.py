"""constraints.txt, what tests and lint run with: complete, within the ranges, and the same wherever it is used."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def required() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def locked() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("wanted", required(), ids=lambda wanted: wanted.name)
def test_what_is_required_is_locked_within_its_range(wanted: Requirement) -> None:
    versions = [each.specifier for each in locked() if canonicalize_name(each.name) == canonicalize_name(wanted.name)]
    assert versions, "run: make lock"
    for specifier in versions:
        ((operator, version),) = ((each.operator, each.version) for each in specifier)
        assert operator == "=="
        assert wanted.specifier.contains(version), "run: make lock"


def test_the_lock_names_no_place_to_fetch_from() -> None:
    assert [each.name for each in locked() if each.url or each.extras] == []
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
