from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugengine.bench import statistics
from plugengine.bench.statistics import Interval, geometric_mean, interval, median, paired_ratio, unpaired_ratio

VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=15)


def test_the_median_is_the_middle_or_the_mean_of_the_two_there() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    with pytest.raises(ValueError, match="no values"):
        median([])


@settings(max_examples=25)  # each draws thousands of times
@given(VALUES, st.integers(0, 99))
def test_an_interval_holds_its_value_lies_within_the_values_and_is_the_same_again(
    values: list[float], seed: int
) -> None:
    found = interval(values, seed=seed)
    statistics._draws.cache_clear()  # as another process would draw
    assert found == interval(values, seed=seed)
    assert found.holds(found.value)
    if len(values) >= 3:
        assert found.low is not None
        assert found.high is not None
        assert min(values) <= found.low <= found.value <= found.high <= max(values)
    else:
        assert not found.known


def test_about_95_of_100_intervals_hold_the_true_median() -> None:
    generator = random.Random(5)
    held = sum(interval([generator.gauss(10, 1) for _ in range(11)], seed=number).holds(10) for number in range(200))
    assert 0.88 <= held / 200 <= 0.99


def test_what_slows_both_of_a_pair_down_cancels_out() -> None:
    noise = [1.0, 9.0, 2.0, 30.0, 1.5, 4.0, 7.0]
    found = paired_ratio([2 * value for value in noise], noise)
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_pairs_must_be_pairs_above_nothing() -> None:
    with pytest.raises(ValueError, match="2 values for 1"):
        paired_ratio([1, 2], [1])
    with pytest.raises(ValueError, match="not above 0"):
        paired_ratio([1], [0])
    with pytest.raises(ValueError, match="not above 0"):
        unpaired_ratio([1, 1], [0, 0])


def test_a_real_difference_between_runs_is_seen_and_noise_is_not() -> None:
    generator = random.Random(7)
    base = [generator.gauss(10, 0.3) for _ in range(9)]
    same = [generator.gauss(10, 0.3) for _ in range(9)]
    slower = [generator.gauss(12, 0.3) for _ in range(9)]
    assert unpaired_ratio(same, base).holds(1)
    assert not unpaired_ratio(slower, base).holds(1)


def test_intervals_overlap_when_they_share_a_point_or_one_is_unknown() -> None:
    first, second = Interval(value=2, low=1, high=3), Interval(value=4, low=3, high=5)
    assert first.overlaps(second)
    assert not first.overlaps(Interval(value=9, low=8, high=10))
    assert first.overlaps(Interval(value=9))


def test_the_geometric_mean_of_twice_and_half_is_one() -> None:
    assert geometric_mean([2, 0.5]) == pytest.approx(1)
    with pytest.raises(ValueError, match="above 0"):
        geometric_mean([])


def test_enough_is_drawn() -> None:
    assert statistics.RESAMPLES >= 1000
