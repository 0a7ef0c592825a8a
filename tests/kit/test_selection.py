"""The expression of -k."""

from __future__ import annotations

import pytest

from plugengine.errors import UsageError
from plugengine.testing.selection import compile_selection

IDS = ["storage.remove.twice", "storage.remove.half", "storage.mount.twice"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("remove", [0, 1]),
        ("REMOVE", [0, 1]),
        ("storage.remove.half", [1]),
        ("remove and twice", [0]),
        ("half or mount", [1, 2]),
        ("not twice", [1]),
        ("not not twice", [0, 2]),
        ("remove and not (half or mount)", [0]),
        ("half or mount and twice", [1, 2]),
        ("(half or mount) and twice", [2]),
        ("nothing", []),
    ],
)
def test_words_are_looked_for_in_ids(text: str, numbers: list[int]) -> None:
    matches = compile_selection(text)
    assert [number for number, name in enumerate(IDS) if matches(name)] == numbers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"),
        ("not", "ends too early"),
        ("a and", "ends too early"),
        ("and a", "'and' is not expected here"),
        ("a b", "'b' is not expected here"),
        ("(a", "a parenthesis is not closed"),
        ("a)", "')' is not expected here"),
        ("()", "')' is not expected here"),
    ],
)
def test_an_expression_that_makes_no_sense_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_selection(text)
    assert caught.value.message == f"-k {text!r}: {why}"
