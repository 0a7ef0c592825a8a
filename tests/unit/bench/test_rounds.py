"""Rounds: everything once in each, columns of one workload next to each other, failures and interrupts kept apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.bench.results import Cell
from plugengine.bench.rounds import Measurement, run_rounds


def nothing(_done: int, _total: int, _what: str) -> None:
    """Take no notice."""


def recording(log: list[tuple[str, str]], workloads: int, columns: int) -> list[Measurement]:
    def take(workload: str, column: str) -> Callable[[], float]:
        def once() -> float:
            log.append((workload, column))
            return float(len(log))

        return once

    return [
        Measurement(workload=f"w{row}", column=f"c{place}", take=take(f"w{row}", f"c{place}"))
        for row in range(workloads)
        for place in range(columns)
    ]


@given(
    workloads=st.integers(1, 4),
    columns=st.integers(1, 4),
    rounds=st.integers(1, 4),
    warmup=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_every_round_takes_everything_once_with_the_columns_of_a_workload_together(
    workloads: int, columns: int, rounds: int, warmup: int, seed: int
) -> None:
    log: list[tuple[str, str]] = []
    cells, partial = run_rounds(
        recording(log, workloads, columns), rounds=rounds, warmup=warmup, seed=seed, progress=nothing
    )
    size = workloads * columns
    assert len(log) == size * (rounds + warmup)
    assert not partial
    for begin in range(0, len(log), size):
        taken = log[begin : begin + size]
        assert len(set(taken)) == size
        groups = [taken[place : place + columns] for place in range(0, size, columns)]
        assert all(len({workload for workload, _ in group}) == 1 for group in groups)
    for cell in cells:
        assert cell.rounds == tuple(range(1, rounds + 1))
        assert not cell.error


@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_order(seed: int) -> None:
    logs: list[list[tuple[str, str]]] = [[], []]
    for log in logs:
        run_rounds(recording(log, 3, 3), rounds=3, warmup=1, seed=seed, progress=nothing)
    assert logs[0] == logs[1]


def test_the_order_differs_between_rounds() -> None:
    log: list[tuple[str, str]] = []
    run_rounds(recording(log, 3, 4), rounds=4, warmup=0, seed=1, progress=nothing)
    assert len({tuple(log[begin : begin + 12]) for begin in range(0, 48, 12)}) > 1


def test_a_failure_ends_its_own_cell_and_no_other_and_the_order_stays() -> None:
    whole: list[tuple[str, str]] = []
    run_rounds(recording(whole, 2, 2), rounds=3, warmup=0, seed=5, progress=nothing)
    log: list[tuple[str, str]] = []
    measurements = recording(log, 2, 2)
    calls = 0

    def breaks_in_the_second() -> float:
        nonlocal calls
        calls += 1
        log.append(("w0", "c0"))
        if calls == 2:
            raise RuntimeError("the driver crashed")
        return 1.0

    measurements[0] = Measurement(workload="w0", column="c0", take=breaks_in_the_second)
    cells, partial = run_rounds(measurements, rounds=3, warmup=0, seed=5, progress=nothing)
    assert cells[0] == Cell(workload="w0", column="c0", values=(1.0,), rounds=(1,), error="round 2: the driver crashed")
    assert calls == 2
    assert all(cell.rounds == (1, 2, 3) and not cell.error for cell in cells[1:])
    assert not partial
    others = [each for each in log if each != ("w0", "c0")]
    assert others == [each for each in whole if each != ("w0", "c0")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_measurement_is_a_failure(value: float) -> None:
    measurement = Measurement(workload="w", column="c", take=lambda: value)
    (cell,), _ = run_rounds([measurement], rounds=1, warmup=0, seed=0, progress=nothing)
    assert cell.values == ()
    assert "is no measurement" in cell.error


def test_a_failure_in_the_warm_up_is_told_as_such_and_its_values_are_thrown_away() -> None:
    def fails() -> float:
        raise ValueError

    good = Measurement(workload="w", column="good", take=lambda: 1.0)
    cells, _ = run_rounds(
        [good, Measurement(workload="w", column="bad", take=fails)], rounds=2, warmup=3, seed=0, progress=nothing
    )
    assert cells[0].values == (1.0, 1.0)
    assert cells[1].error == "warm-up: ValueError"


def test_an_interrupt_keeps_what_was_taken_and_marks_it() -> None:
    count = 0

    def interrupted_in_the_third() -> float:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return 2.0

    (cell,), partial = run_rounds(
        [Measurement(workload="w", column="c", take=interrupted_in_the_third)],
        rounds=9,
        warmup=0,
        seed=0,
        progress=nothing,
    )
    assert partial
    assert (cell.values, cell.rounds, cell.error) == ((2.0, 2.0), (1, 2), "")


def test_without_time_one_round_is_kept_and_that_is_no_interrupt() -> None:
    log: list[tuple[str, str]] = []
    cells, partial = run_rounds(recording(log, 2, 2), rounds=50, warmup=1, seed=0, progress=nothing, budget_s=0.0)
    assert not partial
    assert {cell.rounds for cell in cells} == {(1,)}


def test_progress_counts_up_to_the_total_whatever_fails() -> None:
    def fails() -> float:
        raise OSError(5, "Input/output error")

    told: list[tuple[int, int, str]] = []
    measurements = [
        Measurement(workload="w", column="bad", take=fails),
        Measurement(workload="w", column="good", take=lambda: 1.0),
    ]
    run_rounds(measurements, rounds=3, warmup=1, seed=0, progress=lambda *words: told.append(words))
    assert {total for _, total, _ in told} == {8}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1] == (8, 8, "")
    assert sum(what == "w bad" for _, _, what in told) == 1
