"""Capability names are found however people write them."""

from __future__ import annotations

import pytest

from plugengine.kernel.capabilities import (
    CAPABILITIES,
    capability_name,
    capability_names,
    capability_number,
    capability_set,
    last_cap,
)


@pytest.mark.parametrize("name", ["CAP_NET_ADMIN", "NET_ADMIN", "net_admin", "cap_net_admin"])
def test_a_capability_is_found_with_or_without_prefix_in_any_case(name: str) -> None:
    assert capability_number(name) == 12


def test_an_unknown_capability_is_named_with_a_near_miss() -> None:
    with pytest.raises(ValueError, match=r"'NET_ADMN'; did you mean CAP_NET_ADMIN"):
        capability_number("NET_ADMN")


def test_names_and_numbers_go_both_ways() -> None:
    assert {capability_name(number): number for number in range(len(CAPABILITIES))} == CAPABILITIES


def test_a_capability_newer_than_the_table_still_has_a_name() -> None:
    assert capability_name(63) == "CAP_63"


def test_a_set_of_names_comes_back_in_order_of_numbers() -> None:
    bits = capability_set(["CHECKPOINT_RESTORE", "CHOWN", "CAP_CHOWN"])
    assert bits == 1 << 40 | 1
    assert capability_names(bits) == ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]


def test_the_running_kernel_knows_every_capability_up_to_its_last() -> None:
    from plugengine.kernel.credentials import capbset_read

    capbset_read(last_cap())
    with pytest.raises(OSError, match="Invalid argument"):
        capbset_read(last_cap() + 1)
