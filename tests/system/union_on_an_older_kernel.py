"""fuse_union beside overlayfs on a kernel without passthrough; run in a machine of its own."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from plugengine.kernel.machine import kernel_version
from tests.drivers.fuse_union.attempts import attempt
from tests.drivers.fuse_union.operations import OPERATIONS, outcomes
from tests.drivers.fuse_union.world import World

# There overlayfs has no O_TMPFILE yet, and FUSE no time of birth (protocol 7.39).
UNLIKE = {
    "a_file_without_a_name_gets_one",
    "a_file_without_a_name_may_be_kept_from_having_one",
    "a_time_of_birth_is_known",
}


def test_operations_end_as_on_overlayfs() -> None:
    assert kernel_version() < (6, 9), "this kernel has passthrough"
    base = Path(tempfile.mkdtemp())
    tried = {name: partial(attempt, act) for name, act in OPERATIONS.items()}
    found: list[dict[str, Any]] = []
    for number in range(2):
        world = World(base / str(number), layers=3)
        found.append(outcomes(world, world.mount if number else world.mount_overlay, tried))
        world.unmount()
        assert world.complaints == ""
    differing = [name for name in OPERATIONS if found[0][name] != found[1][name]]
    for name in differing:
        print(name, found[0][name][0], found[1][name][0], sep="\n  ")  # noqa: T201 - shown with the failure
    assert set(differing) <= UNLIKE
