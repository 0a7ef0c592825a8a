"""Tables, sizes and times as people read them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.cli.formatting import show_rows
from plugengine.cli.human import ago, binary_size, decimal_size, duration, shorten
from plugengine.cli.parse.errors import CommandLineError
from plugengine.cli.table import write_table
from plugengine.model import short_id

SECOND, MINUTE, HOUR, DAY = 1, 60, 3600, 86_400


def shown(template: str | None, *, quiet: str | None = None, rows: int = 2) -> str:
    out: list[str] = []
    data = [{"ID": f"id{index}", "Name": f"name{index}", "Note": "é"} for index in range(rows)]
    headings = {"ID": "ID", "Name": "THE NAME", "Note": "NOTE"}
    show_rows(out.append, data, columns=("ID", "Name"), headings=headings, template=template, quiet=quiet)
    return "".join(out)


def test_a_table_has_headings_and_aligned_columns() -> None:
    out: list[str] = []
    write_table(out.append, ("A", "LONGER HEADING", "C"), [("a", "b", "c"), ("a cell that is long", "b", "")])
    assert "".join(out) == (
        "A                     LONGER HEADING   C\n"
        "a                     b                c\n"
        "a cell that is long   b                \n"
    )


def test_no_cell_forges_a_row_or_moves_the_cursor() -> None:
    out: list[str] = []
    write_table(out.append, ("A", "B"), [("x\ny\tz", "\033[2Jq\r")])
    assert "".join(out).count("\n") == 2
    assert "\033" not in "".join(out)


@pytest.mark.parametrize("template", [None, "table", " table "])
def test_people_see_a_table(template: str | None) -> None:
    assert shown(template) == "ID        THE NAME\nid0       name0\nid1       name1\n"


def test_an_empty_table_is_its_headings() -> None:
    assert shown(None, rows=0) == "ID        THE NAME\n"
    assert shown("json", rows=0) == ""


def test_quiet_shows_one_value_alone() -> None:
    assert shown(None, quiet="ID") == "id0\nid1\n"


def test_programs_read_an_object_a_line() -> None:
    assert [json.loads(line)["ID"] for line in shown("json").splitlines()] == ["id0", "id1"]
    assert shown("json", rows=1) == '{"ID":"id0","Name":"name0","Note":"é"}\n'


def test_a_template_makes_a_line_of_each_row() -> None:
    assert shown("{{.Name}}\\t{{.ID}}") == "name0\tid0\nname1\tid1\n"


def test_a_table_of_a_template_has_the_headings_of_its_fields() -> None:
    assert shown(r"table {{.Name}}\t{{.ID}}") == "THE NAME   ID\nname0      id0\nname1      id1\n"


def test_a_field_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CommandLineError, match=r"there is no \.Nmae, did you mean \.Name\?"):
        shown("{{.Nmae}}")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (38_100_000, "38.1MB"), (10**12, "1TB"), (1_234_567, "1.23MB")],
)
def test_decimal_sizes(size: int, text: str) -> None:
    assert decimal_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (64 << 20, "64MiB"), (3 << 29, "1.5GiB"), (10**15, "909.5TiB")]
)
def test_binary_sizes(size: int, text: str) -> None:
    assert binary_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (59 * MINUTE, "59 minutes"),
        (60 * MINUTE, "About an hour"),
        (2 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages_and_identifiers() -> None:
    assert ago(0, 90 * 1_000_000_000) == "About a minute ago"
    assert short_id("sha256:" + "ab" * 32) == "abababababab"
    assert shorten("0123456789", 10) == "0123456789"
    assert shorten("0123456789x", 10) == "012345678…"


@given(st.integers(0, 2**62))
def test_a_size_is_short_whatever_it_is(size: int) -> None:
    assert len(binary_size(size)) <= 10
    assert len(decimal_size(size)) <= 10
