"""fuse_union on a disk that fails, in a machine booted with a device mapper."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import need_tool
from tests.system.qemu import boot


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_union_outlives_the_failure_of_its_disk(tmp_path: Path) -> None:
    done = boot(
        ["python", "-m", "pytest", "-q", "--noconftest", "tests/system/fuse_union_on_failing_disk.py"],
        tmp_path,
        modules=["fuse", "loop", "dm-mod", "dm-flakey"],
        programs=[need_tool(name) for name in ("dmsetup", "e2fsck", "mkfs.ext4")],
        environ={"PE_MUST_RUN": "1"},
    )
    assert done.status == 0, done.output[-10_000:]
