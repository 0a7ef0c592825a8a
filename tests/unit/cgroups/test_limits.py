"""Lists of processors, and shares as weights."""

from __future__ import annotations

import pytest

from plugengine.cgroups.limits import check_list, check_memory, memory_and_swap, parse_list, weight_of_shares
from plugengine.errors import UsageError
from plugengine.model import Limits


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", {0}), ("0-3,7", {0, 1, 2, 3, 7}), (" 1 , 3-3\n", {1, 3}), ("2,2", {2})],
)
def test_a_list_is_parsed(text: str, numbers: set[int]) -> None:
    assert parse_list(text, "--cpuset-cpus") == numbers


@pytest.mark.parametrize("text", ["", ",", "1-", "-1", "a", "1,,2", "3-1", "1-2-3", "0-999999999", "\u0663"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cpuset-cpus"):
        parse_list(text, "--cpuset-cpus")


def test_what_is_not_there_is_named_with_what_is() -> None:
    check_list("0-1", "0-3\n", "--cpuset-cpus")
    check_list(None, "", "--cpuset-cpus")
    with pytest.raises(UsageError, match="4, 5 not there") as caught:
        check_list("3-5", "0-3\n", "--cpuset-cpus")
    assert caught.value.hint == "available: 0-3"


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (10**9, 10_000)])
def test_shares_become_weights_and_the_defaults_meet(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_more_shares_never_weigh_less() -> None:
    weights = [weight_of_shares(shares) for shares in range(2, 5000)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        (Limits(), None),
        (Limits(memory_bytes=100), 200),
        (Limits(memory_bytes=100, memory_swap_bytes=-1), -1),
        (Limits(memory_bytes=100, memory_swap_bytes=100), 100),
        (Limits(memory_swap_bytes=-1), -1),
    ],
)
def test_memory_and_swap_together(limits: Limits, total: int | None) -> None:
    check_memory(limits)
    assert memory_and_swap(limits) == total
