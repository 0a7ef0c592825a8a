"""A run in a terminal: units, intervals, costs, and nothing that failed left out."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from plugengine.bench.results import HIGHER, Cell, Column, Run
from plugengine.bench.tables import run_lines, write_run
from tests.unit.bench.test_comparing import around, cell, run

SLOW = tuple(2 * value for value in around(0.001, 3))


def text_of(shown: Run, width: int = 200) -> str:
    return "\n".join(run_lines(shown, width=width))


def test_a_cell_has_its_median_its_interval_and_its_cost_against_the_baseline() -> None:
    shown = run(cell(*around(0.001, 3)), cell(*SLOW, column="slow"))
    text = text_of(shown)
    assert "w [ms]" in text
    assert "±" in text
    assert "2.00x" in text
    assert "10 rounds" in text


def test_half_the_throughput_costs_twice_as_much() -> None:
    half = tuple(value / 2 for value in around(100.0))
    assert "2.00x" in text_of(run(cell(*around(100.0)), cell(*half, column="slow"), better=HIGHER))


def test_a_difference_within_its_interval_is_no_difference() -> None:
    assert "no difference" in text_of(run(cell(*around(1.0)), cell(*around(1.0, 1), column="other")))


def test_with_fewer_than_three_values_there_is_no_interval_and_the_cost_is_marked() -> None:
    text = text_of(run(cell(1.0, 1.0), cell(2.0, 2.0, column="other")))
    assert "2.00x?" in text
    assert "±" not in text.partition("medians")[0]
    assert "?: fewer than 3 values" in text


def test_what_failed_is_shown_as_failed_with_the_reason_below() -> None:
    text = text_of(run(cell(*around(1.0)), cell(1.0, column="bad", error="round 2: it crashed")))
    assert "failed" in text.partition("medians")[0]
    assert "bad, w: round 2: it crashed" in text


def test_an_error_of_all_workloads_of_a_column_is_said_once() -> None:
    cells = [cell(*around(1.0), workload=name) for name in ("a", "b")]
    bad = [cell(workload=name, column="bad", error="no") for name in ("a", "b")]
    text = text_of(run(*cells, *bad))
    assert text.count("bad, everything: no") == 1


def test_a_column_that_is_not_supported_is_no_column_but_a_reason() -> None:
    shown = run(cell(*around(1.0)))
    shown = replace(shown, columns=(*shown.columns, Column(name="btrfs", reason="not on btrfs")))
    head, _, rest = text_of(shown).partition("not measured here")
    assert "btrfs" not in head
    assert "btrfs: not on btrfs" in rest


def test_a_workload_that_makes_no_sense_for_a_column_is_a_dash_and_no_failure() -> None:
    shown = run(cell(*around(1.0)), cell(*around(1.0), workload="only"))
    shown = replace(shown, columns=(*shown.columns, Column(name="other", limit=True)))
    text = text_of(shown)
    assert "failed" not in text
    assert "-" in text.split("only")[1].splitlines()[0]
    assert "other (limit)" in text


@pytest.mark.parametrize("width", [40, 60, 100])
def test_columns_that_do_not_fit_come_in_further_tables(width: int) -> None:
    shown = run(*(cell(*around(1.0), column=f"column-{number}") for number in range(12)))
    lines = list(run_lines(shown, width=width))
    table = lines[: next(number for number, line in enumerate(lines) if line.startswith("medians"))]
    assert max(map(len, table)) <= width
    assert all(any(f"column-{number}" in line for line in table) for number in range(12))


def test_the_baseline_is_the_first_column() -> None:
    shown = replace(run(cell(*around(1.0)), cell(*around(1.0), column="base")), baseline="base")
    assert next(run_lines(shown, width=200)).split() == ["base", "c"]


def test_an_interrupted_run_says_so_and_warnings_are_shown() -> None:
    shown = replace(run(cell(*around(1.0))), partial=True, warnings=("steal was 9 %",))
    text = text_of(shown)
    assert "INTERRUPTED" in text
    assert "steal was 9 %" in text


def test_nothing_a_driver_says_can_move_the_cursor() -> None:
    written: list[str] = []
    shown = run(cell(1.0), Cell(workload="w", column="evil", error="\x1b[2Jgone\nforged: line"))
    write_run(written.append, shown, width=100)
    assert "\x1b" not in "".join(written)
    assert not any(line.startswith("forged") for line in written)


def test_a_run_of_nothing_can_be_shown() -> None:
    assert "medians of 0" in text_of(run())
