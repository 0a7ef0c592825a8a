"""Two runs compared: what changed beyond the noise, in which direction, and what cannot be compared."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from plugengine.bench.comparing import BETTER, BROKEN, FAILING, REPAIRED, SAME, UNSURE, WORSE, Change, compare
from plugengine.bench.results import HIGHER, LOWER, Cell, Column, Machine, Run, Workload
from plugengine.bench.tables import comparison_lines
from plugengine.errors import UsageError

MACHINE = Machine(
    host="h",
    kernel="6.1",
    cpu="c",
    cores=2,
    memory_bytes=1 << 30,
    filesystem="ext4 (rw)",
    directory="/d",
    python="3.11",
    plugengine="0.1",
)


def run(*cells: Cell, better: str = LOWER, kind: str = "start") -> Run:
    names = list(dict.fromkeys(cell.workload for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    return Run(
        kind=kind,
        started="2026-01-01T00:00:00Z",
        duration_s=1.0,
        seed=1,
        rounds=10,
        warmup=0,
        baseline=columns[0] if columns else "",
        command=("pe", "bench", kind),
        place="container",
        machine=MACHINE,
        columns=tuple(Column(name=name) for name in columns),
        workloads=tuple(
            Workload(name=name, title=name, sentence=name, group="g", unit="s", better=better) for name in names
        ),
        cells=cells,
    )


def cell(*values: float, workload: str = "w", column: str = "c", error: str = "") -> Cell:
    return Cell(workload=workload, column=column, values=values, rounds=tuple(range(1, len(values) + 1)), error=error)


def around(middle: float, seed: int = 0) -> tuple[float, ...]:
    generator = random.Random(seed)
    return tuple(middle * generator.uniform(0.98, 1.02) for _ in range(10))


def only(before: Run, after: Run) -> Change:
    (change,) = compare(before, after).changes
    return change


@pytest.mark.parametrize(
    ("better", "factor", "verdict"),
    [(LOWER, 2.0, WORSE), (LOWER, 0.5, BETTER), (HIGHER, 2.0, BETTER), (HIGHER, 0.5, WORSE)],
)
def test_better_and_worse_go_by_the_direction_of_the_workload(better: str, factor: float, verdict: str) -> None:
    change = only(run(cell(*around(1.0)), better=better), run(cell(*around(factor, 1)), better=better))
    assert change.verdict == verdict
    assert change.past(0.1) == (verdict == WORSE)
    assert not change.past(1.5)
    if verdict == WORSE:
        assert change.slower == pytest.approx(2.0, rel=0.05)


def test_what_lies_within_the_noise_is_no_difference() -> None:
    change = only(run(cell(*around(1.0))), run(cell(*around(1.0, 1))))
    assert change.verdict == SAME
    assert not change.past(0.0)


def test_a_clear_difference_below_the_threshold_is_worse_but_not_past_it() -> None:
    change = only(run(cell(*around(1.0))), run(cell(*around(1.06, 1))))
    assert change.verdict == WORSE
    assert not change.past(0.1)
    assert change.past(0.02)


def test_with_too_few_values_nothing_is_claimed() -> None:
    change = only(run(cell(1.0, 1.0)), run(cell(9.0, 9.0)))
    assert change.verdict == UNSURE
    assert not change.past(0.0)


def test_what_fails_now_is_past_every_threshold_and_what_works_now_is_not() -> None:
    good, bad = run(cell(*around(1.0))), run(cell(1.0, error="round 2: crashed"))
    assert only(good, bad).verdict == BROKEN
    assert only(good, bad).past(1e9)
    assert only(bad, good).verdict == REPAIRED
    assert not only(bad, good).past(0.0)
    assert only(bad, bad).verdict == FAILING
    assert not only(bad, bad).past(0.0)


def test_what_is_in_one_only_is_named_and_not_compared() -> None:
    before = run(cell(*around(1.0)), cell(*around(1.0), workload="old"), cell(*around(1.0), column="gone"))
    after = run(cell(*around(1.0)), cell(*around(1.0), workload="new"))
    found = compare(before, after)
    assert [(each.workload, each.column) for each in found.changes] == [("w", "c")]
    assert found.only_before == ("workload old", "column gone")
    assert found.only_after == ("workload new",)


def test_runs_of_different_kinds_are_refused() -> None:
    with pytest.raises(UsageError, match="pe bench start with one of pe bench net"):
        compare(run(cell(1.0)), run(cell(1.0), kind="net"))


def test_other_machines_options_and_interrupts_are_warned_of() -> None:
    before = run(cell(*around(1.0)))
    after = replace(
        before,
        machine=replace(MACHINE, cpu="other", memory_bytes=1),
        columns=(Column(name="c", options={"size": "1g"}),),
        partial=True,
    )
    text = "\n".join(compare(before, after).warnings)
    assert "cpu c, then other" in text
    assert "memory" in text
    assert "c: other options: none, then size=1g" in text
    assert "the second run was interrupted" in text
    assert compare(before, before).warnings == ()


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
)
def test_a_run_and_its_mirror_image_never_both_get_worse(mine: list[float], theirs: list[float]) -> None:
    before, after = run(cell(*mine)), run(cell(*theirs))
    assert {only(before, after).verdict, only(after, before).verdict} != {WORSE}
    assert only(before, before).verdict in (SAME, UNSURE)


def test_the_lines_put_the_worst_first_and_count_the_rest() -> None:
    before = run(*(cell(*around(1.0), workload=name) for name in ("same", "worse", "better", "broken")))
    after = run(
        cell(*around(1.0), workload="same"),
        cell(*around(3.0, 1), workload="worse"),
        cell(*around(0.5, 2), workload="better"),
        cell(workload="broken", error="round 1: crashed"),
    )
    lines = list(comparison_lines(compare(before, after), 0.1))
    assert [line.split()[0] for line in lines[:3]] == ["broken", "worse", "better"]
    assert "crashed" in lines[0]
    assert [("PAST THE THRESHOLD" in line) for line in lines[:3]] == [True, True, False]
    assert lines[-1] == "4 cells compared: 1 fails now, 1 worse, 1 better, 1 no difference"
    assert any(line.startswith("same") for line in comparison_lines(compare(before, after), 0.1, everything=True))
