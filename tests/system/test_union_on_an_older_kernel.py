"""fuse_union on a kernel whose FUSE is older: Debian's 6.1 speaks 7.37 and knows no passthrough."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.qemu import boot


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_union_works_where_the_kernel_cannot_pass_files_through(tmp_path: Path) -> None:
    done = boot(
        ["python", "-m", "pytest", "-q", "--noconftest", "tests/system/union_on_an_older_kernel.py"],
        tmp_path,
        modules=["overlay", "fuse"],
        environ={"PE_MUST_RUN": "1"},
    )
    assert done.status == 0, done.output[-10_000:]
