"""Wrong drivers are caught, each by the case meant for it, which the driver it was made of passes."""

from __future__ import annotations

import pytest

from tests.conftest import need_root
from tests.kit import wrong_cgroup, wrong_namespace, wrong_network, wrong_runtime
from tests.kit.spoiling import Wrong

WRONG = [*wrong_network.WRONG, *wrong_cgroup.WRONG, *wrong_namespace.WRONG, *wrong_runtime.WRONG]
# A case that a driver is left out of passes with no driver that claims what is refused.
REFUSED = {"namespace.user.not-claimed"}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_driver_is_caught_by_the_case_meant_for_it(wrong: Wrong) -> None:
    need_root()
    wrong.assert_caught()


@pytest.mark.parametrize("wrong", {each.case: each for each in WRONG}.values(), ids=lambda wrong: wrong.case)
def test_the_driver_it_was_made_of_passes_that_case(wrong: Wrong) -> None:
    need_root()
    if wrong.case not in REFUSED:
        wrong.assert_good_passes()
