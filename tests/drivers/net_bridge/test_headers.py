"""Our numbers are the kernel's: a compiler reads them in the headers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from plugengine_net_bridge import conntrack, expressions, nft, rules, table

from plugengine.kernel import addresses, netlink
from plugengine.kernel import rtnetlink as rtnl
from tests.conftest import need_tool

HEADERS = """
#include <stdio.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <net/route.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/if_addr.h>
#include <linux/veth.h>
#include <linux/sockios.h>
#include <linux/net_namespace.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
"""
# Constants of our own (or of nftables, or inside the kernel), beside those of the headers.
PREFIXES = (
    "NLM", "NETLINK_", "NLA_", "SOL_NETLINK", "RTM_", "IFLA_", "MACVLAN_", "VETH_", "IFA_", "IFF_", "IF_OPER_",
    "NETNSA_", "RT_SCOPE_",
    "NFNL_", "NFT_", "NFTA_", "NF_", "RTN_", "IPS_DST_NAT", "IPCTNL_", "CTA_", "SIOC", "RTF_",
)  # fmt: skip
INSIDE_THE_KERNEL = ("CTA_FILTER_", "NLA_F_NESTED", "NETLINK_GET_STRICT")
MODULES = (netlink, addresses, rtnl, nft, expressions, rules, table, conntrack)


def constants(module: ModuleType) -> dict[str, int]:
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) is int and name.startswith(PREFIXES) and not name.startswith(INSIDE_THE_KERNEL)
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_constants_equal_the_headers(module: ModuleType, tmp_path: Path) -> None:
    compiler = need_tool("gcc")
    ours = constants(module)
    lines = "\n".join(f'printf("{name} %lld\\n", (long long){name});' for name in ours)
    source = tmp_path / "probe.c"
    source.write_text(f"#define NLA_TYPE_MASK_ 1\n{HEADERS}\nint main(void) {{ {lines} return 0; }}\n")
    subprocess.run([compiler, "-w", "-o", tmp_path / "probe", source], check=True)
    printed = subprocess.run([tmp_path / "probe"], check=True, capture_output=True, text=True).stdout
    theirs = {name: int(value) for name, value in (line.split() for line in printed.splitlines())}
    differ = {name: (ours[name], theirs[name]) for name in ours if ours[name] & 0xFFFFFFFF != theirs[name] & 0xFFFFFFFF}
    assert differ == {"NLA_TYPE_MASK": (0x3FFF, -0xC001)} or not differ


def test_the_number_of_rules_remembered_is_the_number_there_is() -> None:
    made = [request for request in rules.definition() if request.kind & 0xFF == nft.NFT_MSG_NEWRULE]
    assert len(made) == sum(count for _, count in table.CHAINS)
    for chain, count in table.CHAINS:
        assert sum(request.about == f"rule in plugengine {chain}" for request in made) == count
