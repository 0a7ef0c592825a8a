"""The whole engine in a machine booted without version 1 of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.qemu import boot


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_containers_run_on_a_machine_with_version_2_only(tmp_path: Path) -> None:
    done = boot(
        ["python", "-m", "pytest", "-q", "--noconftest", "tests/system/engine_on_version_2.py"],
        tmp_path,
        modules=["overlay"],
        programs=["/bin/sh", "/bin/cat", "/bin/sleep"],
        environ={"PE_MUST_RUN": "1"},
        cmdline="cgroup_no_v1=all",
    )
    assert done.status == 0, done.output[-10_000:]
