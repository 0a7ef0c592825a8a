"""Options are read once, by their kinds, and every driver gets every option as a value."""

from __future__ import annotations

import pytest

from plugengine import quantities
from plugengine.errors import UsageError
from plugengine.model import Option, OptionKind, OptionValue
from plugengine.plugins.options import read, typed

OPTIONS = (
    Option(name="size", kind=OptionKind.SIZE, least=1 << 20, help="bytes"),
    Option(name="mode", kind=OptionKind.CHOICE, choices=("quick", "safe"), default="safe", help="how"),
    Option(name="sync", kind=OptionKind.FLAG, default="on", help="whether"),
    Option(name="jobs", kind=OptionKind.INTEGER, least=1, most=64, default="4", help="how many"),
    Option(name="timeout", kind=OptionKind.DURATION, most=3600, help="how long"),
    Option(name="file", kind=OptionKind.PATH, help="where"),
    Option(name="words", help="what"),
)
NOTHING = {
    "size": None, "mode": "safe", "sync": True, "jobs": 4, "timeout": None, "file": None, "words": None,
}  # fmt: skip


def test_every_option_is_there_with_its_default_or_none() -> None:
    assert typed(OPTIONS, {}) == NOTHING


def test_what_is_written_becomes_a_value_of_its_kind() -> None:
    given = {
        "size": "1.5g",
        "mode": "quick",
        "sync": "no",
        "jobs": "64",
        "timeout": "1m30s",
        "file": "/x",
        "words": "a b",
    }
    wanted: dict[str, OptionValue] = {
        "size": 3 << 29,
        "mode": "quick",
        "sync": False,
        "jobs": 64,
        "timeout": 90.0,
        "file": "/x",
        "words": "a b",
    }
    assert typed(OPTIONS, given) == wanted
    assert typed(OPTIONS, wanted) == wanted, "what is a value already stays as it is"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("size", "1x", "not a size"),
        ("size", "12", "less than 1048576"),
        ("size", "9" * 30, "larger than any file"),
        ("mode", "Safe", "not quick or safe"),
        ("sync", "maybe", "neither true nor false"),
        ("jobs", "0", "not between 1 and 64"),
        ("jobs", "1.5", "not a whole number"),
        ("timeout", "1 hour", "not a duration"),
        ("timeout", "2h", "more than 3600"),
        ("timeout", "nan", "not a duration"),
        ("file", "x", "not an absolute path"),
        ("words", "a\0b", "null byte"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_the_reason(name: str, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"storage driver x: option {name}=.*{why}"):
        typed(OPTIONS, {name: text}, whose="storage driver x")
    assert typed(OPTIONS, {name: text}, lenient=True) == NOTHING, "while something is unmade"


def test_an_option_there_is_not_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="storage driver x: no option siez") as caught:
        typed(OPTIONS, {"siez": "1m"}, whose="storage driver x")
    assert "size" in (caught.value.hint or "")
    assert typed(OPTIONS, {"siez": "1m"}, lenient=True) == NOTHING


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("20", 20), ("1.5", 1.5), ("250ms", 0.25), ("1h1m1s", 3661), ("1.5h", 5400)]
)
def test_durations_are_seconds_or_as_go_writes_them(text: str, seconds: float) -> None:
    assert quantities.duration(text) == seconds


@pytest.mark.parametrize(("text", "value"), [("TRUE", True), ("on", True), ("0", False), ("No", False)])
def test_a_flag_has_many_words(text: str, value: OptionValue) -> None:
    assert read(Option(name="x", kind=OptionKind.FLAG, help=""), text) is value
