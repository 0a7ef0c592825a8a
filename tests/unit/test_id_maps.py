"""Ids inside and outside of a user namespace."""

from __future__ import annotations

import pytest

from plugengine.model import IdRange, guest_id, host_id

RANGES = (IdRange(guest=0, host=100_000, size=10), IdRange(guest=500, host=7, size=1))


@pytest.mark.parametrize(("inside", "outside"), [(0, 100_000), (9, 100_009), (500, 7)])
def test_an_id_leads_outside_and_back(inside: int, outside: int) -> None:
    assert host_id(RANGES, inside) == outside
    assert guest_id(RANGES, outside) == inside


def test_an_id_that_is_not_mapped_has_none() -> None:
    assert [host_id(RANGES, number) for number in (10, 499, 501, 100_000)] == [None] * 4
    assert [guest_id(RANGES, number) for number in (0, 8, 99_999, 100_010)] == [None] * 4
    assert host_id((), 0) is None
