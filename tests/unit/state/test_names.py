"""Names of containers: docker's rule, and invented ones."""

from __future__ import annotations

import pytest

from plugengine.errors import UsageError
from plugengine.model import SHORT_ID_LENGTH
from plugengine.state.names import check_name, near_miss, new_id, new_name


@pytest.mark.parametrize("name", ["web", "web-1", "a_b.c", "9lives", "A0", "x" * 255])
def test_a_name_of_letters_digits_and_inner_punctuation_is_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "-web", ".web", "_web", "a/b", "a b", "web\n", "wéb", "..", "x" * 256, "a\0b"]
)
def test_any_other_name_is_refused_and_the_message_repeats_it(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert repr(name) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("attempt", [0, 1, 2, 9])
def test_an_invented_name_is_allowed(attempt: int) -> None:
    names = {new_name(attempt) for _ in range(50)}
    assert len(names) > 1
    for name in names:
        check_name(name)


def test_the_short_form_of_an_id_is_never_a_number() -> None:
    found = [new_id() for _ in range(3000)]
    assert len(set(found)) == len(found)
    assert not any(each[:SHORT_ID_LENGTH].isdecimal() for each in found)


def test_the_nearest_name_is_suggested_but_not_a_far_one() -> None:
    assert near_miss("wep", ["web", "database"]) == "did you mean web?"
    assert near_miss("qqqq", ["web", "database"]) is None
