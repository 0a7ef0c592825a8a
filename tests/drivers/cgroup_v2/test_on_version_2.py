"""The limits of version 2, in a machine booted without version 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.qemu import boot

HERE = "tests/drivers/cgroup_v2"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_limits_hold_on_a_machine_with_version_2_only(tmp_path: Path) -> None:
    done = boot(
        ["python", "-m", "pytest", "-q", f"{HERE}/limits_on_version_2.py", f"{HERE}/test_groups.py"],
        tmp_path,
        modules=["loop"],
        environ={"PE_MUST_RUN": "1"},
        cmdline="cgroup_no_v1=all",
    )
    assert done.status == 0, done.output[-10_000:]
