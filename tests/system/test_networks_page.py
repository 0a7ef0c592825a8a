"""Every example of docs/networks.md works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Pe, need, need_tool
from tests.waiting import PATIENCE_S

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text()
EXAMPLES = re.findall(r"<!-- example: (\w+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL)
EXPECTED = {
    "bridge": "10.20.0.5",
    "macvlan": "192.168.7.192",
    "vxlan": "10.9.1.",
    "cni": "8000/tcp -> 0.0.0.0:8088",
    "none": "LOOPBACK",
    "host": "LOOPBACK",
}
# The reader's own link and gateway, and what the CNI plugins keep for themselves.
PREPARE = {"macvlan": "ip link add eth0 type veth peer name eth1; ip link set eth0 up; ip link set eth1 up"}
TIDY = {
    "macvlan": "ip link delete eth0",
    "cni": "ip link delete pe-cni0; for f in ip ip6; do for t in nat filter; do nft delete table $f $t; done; done",
}


def test_every_driver_has_its_example() -> None:
    assert [name for name, _ in EXAMPLES] == list(EXPECTED)


@pytest.mark.parametrize(("name", "script"), EXAMPLES, ids=lambda value: value if value in EXPECTED else "")
def test_an_example_works(pe: Pe, tmp_path: Path, name: str, script: str) -> None:
    if name == "cni":
        need_tool("iptables")
        need(None if os.path.exists("/usr/lib/cni/bridge") else "needs containernetworking-plugins")
    script = script.replace("/etc/cni/net.d", str(tmp_path))
    script = script.replace('"type": "host-local"', f'"type": "host-local", "dataDir": "{tmp_path}/ipam"')
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}:/usr/sbin:/sbin"
    environ = {**pe.environ, "PATH": path}
    try:
        subprocess.run(["sh", "-c", PREPARE.get(name, "true")], env=environ, check=True)
        done = subprocess.run(
            ["sh", "-euc", script], env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert EXPECTED[name] in done.stdout
    finally:
        pe.clean()
        subprocess.run(["sh", "-c", TIDY.get(name, "true")], env=environ, check=False, capture_output=True)
