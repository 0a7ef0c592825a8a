"""The macvlan driver on a kernel with VLANs: Debian's, in a machine of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import need_tool
from tests.system.qemu import boot


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_vlan_is_made_for_the_network_and_goes_with_it(tmp_path: Path) -> None:
    need_tool("ip")
    done = boot(
        ["python", "-m", "pytest", "-q", "--noconftest", "tests/drivers/net_macvlan", "-k", "vlan or reach"],
        tmp_path,
        modules=["macvlan", "8021q", "veth", "bridge"],
        programs=[str(shutil.which("ip")), "/bin/cat"],
        environ={"PE_MUST_RUN": "1", "PE_VLANS": "1"},
    )
    assert done.status == 0, done.output[-10_000:]
