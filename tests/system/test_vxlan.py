"""The network of several hosts, by the command line."""

from __future__ import annotations

import os

from tests.conftest import Pe


def test_a_network_of_several_hosts_is_made_joined_and_removed(pe: Pe) -> None:
    options = ("-o", "vni=42", "-o", "peers=127.0.0.2", "--subnet", "10.199.0.0/24")
    pe("network", "create", "-d", "vxlan", *options, "team", check=True)
    try:
        ran = pe("run", "--rm", "--net", "team", "host:base", "cat", "/sys/class/net/eth0/mtu", check=True)
        assert int(ran.stdout) > 0
        refused = pe("run", "--rm", "--net", "team", "-p", "8000", "host:base", "true")
        assert refused.returncode != 0
        assert "network driver vxlan does not claim ports" in refused.stderr
    finally:
        removed = pe("network", "rm", "team")
    assert removed.returncode == 0, removed.stderr
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith("vx")]
