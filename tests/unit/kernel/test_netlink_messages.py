"""The messages of the bridge driver, as pyroute2 writes and reads them: a well-kept library as the witness."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from plugengine_net_bridge import expressions, nft, rules
from pyroute2.netlink import nlmsg
from pyroute2.netlink.nfnetlink import nftsocket as theirs
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NLM_F_REQUEST, Request

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_MAC, _PEER_MAC = "02:42:0a:58:00:01", "02:42:0a:58:00:02"
_NOT_ATTRIBUTES = {"attrs", "header", "length", "type", "state", "__align"}
_NFT_CLASSES: dict[int, type[nlmsg]] = {
    nft.NFT_MSG_NEWTABLE: theirs.nft_table_msg,
    nft.NFT_MSG_NEWCHAIN: theirs.nft_chain_msg,
    nft.NFT_MSG_NEWRULE: theirs.nft_rule_msg,
    nft.NFT_MSG_DELRULE: theirs.nft_rule_msg,
    nft.NFT_MSG_NEWSET: theirs.nft_set_msg,
    nft.NFT_MSG_NEWSETELEM: theirs.nft_set_elem_list_msg,
    nft.NFT_MSG_DELSETELEM: theirs.nft_set_elem_list_msg,
}


def plain(value: Any) -> Any:
    """Turn what pyroute2 decoded into dictionaries by attribute name; a twice given attribute would fail here."""
    if isinstance(value, dict):
        found = {key: content for key, content in value.items() if key not in _NOT_ATTRIBUTES}
        for attribute in value.get("attrs", ()):
            assert attribute[0] not in found
            found[attribute[0]] = plain(attribute[1])
        return found
    return [plain(each) for each in value] if isinstance(value, list) else value


def decoded(kind: type[nlmsg], body: bytes) -> Any:
    """Let pyroute2 read a message body."""
    message = kind(_HEADER.pack(_HEADER.size + len(body), 0, NLM_F_REQUEST, 1, 0) + body)
    message.decode()
    return plain(message)


def encoded(kind: type[nlmsg], fields: dict[str, Any], *attributes: tuple[str, Any]) -> bytes:
    """Let pyroute2 write a message body."""
    message = kind()
    message.update(fields)
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data[_HEADER.size :])


def read(request: Request) -> Any:
    """Read one of our nf_tables messages, without what all of them have."""
    subsystem, kind = request.kind >> 8, request.kind & 0xFF
    assert subsystem == nft.NFNL_SUBSYS_NFTABLES
    found = decoded(_NFT_CLASSES[kind], request.body)
    assert (found.pop("nfgen_family"), found.pop("version"), found.pop("res_id")) == (2, 0, 0)
    return found


def linkinfo(kind: str, *more: tuple[str, Any]) -> tuple[str, Any]:
    """Return the attribute that says of what kind a link is."""
    return ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), *more]})


UP = {"flags": 1, "change": 1}
PEER = {"attrs": [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", _PEER_MAC), ("IFLA_MTU", 1400), ("IFLA_NET_NS_FD", 7)]}
MACVLAN_MODE = ("IFLA_MACVLAN_MODE", "bridge")
HAIRPIN = ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1)]})
SLAVE = {"attrs": [("IFLA_INFO_SLAVE_KIND", "bridge"), HAIRPIN]}


@pytest.mark.parametrize(
    ("ours", "fields", "attributes"),
    [
        pytest.param(
            rtnl.new_bridge("pe0", mac=bytes.fromhex(_MAC.replace(":", "")), mtu=1400),
            {},
            [("IFLA_IFNAME", "pe0"), ("IFLA_ADDRESS", _MAC), ("IFLA_MTU", 1400), linkinfo("bridge")],
            id="bridge",
        ),
        pytest.param(
            rtnl.new_veth(
                "v0", master=3, mtu=1400, peer="eth0", peer_mac=bytes.fromhex(_PEER_MAC.replace(":", "")), netns=7
            ),
            UP,
            [
                *(("IFLA_IFNAME", "v0"), ("IFLA_MASTER", 3), ("IFLA_MTU", 1400)),
                linkinfo("veth", ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", PEER)]})),
            ],
            id="veth",
        ),
        pytest.param(
            rtnl.new_macvlan(
                "eth0",
                parent=3,
                mode=rtnl.MACVLAN_MODE_BRIDGE,
                mac=bytes.fromhex(_MAC.replace(":", "")),
                mtu=1400,
                netns=7,
            ),
            {},
            [
                *(("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", _MAC), ("IFLA_MTU", 1400), ("IFLA_LINK", 3)),
                *(("IFLA_NET_NS_FD", 7), linkinfo("macvlan", ("IFLA_INFO_DATA", {"attrs": [MACVLAN_MODE]}))),
            ],
            id="macvlan",
        ),
        pytest.param(
            rtnl.new_vlan("d0.50", parent=3, number=50),
            UP,
            [
                *(("IFLA_IFNAME", "d0.50"), ("IFLA_LINK", 3)),
                linkinfo("vlan", ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", 50)]})),
            ],
            id="vlan",
        ),
        pytest.param(
            rtnl.set_alias("v0", "of web"), {}, [("IFLA_IFNAME", "v0"), ("IFLA_IFALIAS", "of web")], id="alias"
        ),
        pytest.param(rtnl.set_master("v0", 3), {}, [("IFLA_IFNAME", "v0"), ("IFLA_MASTER", 3)], id="master"),
        pytest.param(rtnl.set_mtu("v0", 1300), {}, [("IFLA_IFNAME", "v0"), ("IFLA_MTU", 1300)], id="mtu"),
        pytest.param(rtnl.link_up("v0"), UP, [("IFLA_IFNAME", "v0")], id="up"),
        pytest.param(
            rtnl.unplug("v0"), {"flags": 0, "change": 1}, [("IFLA_IFNAME", "v0"), ("IFLA_MASTER", 0)], id="unplug"
        ),
        pytest.param(rtnl.rename(5, "eth1"), {"index": 5}, [("IFLA_IFNAME", "eth1")], id="rename"),
        pytest.param(
            rtnl.set_hairpin("v0", on=True), {}, [("IFLA_IFNAME", "v0"), ("IFLA_LINKINFO", SLAVE)], id="hairpin"
        ),
    ],
)
def test_links_are_written_as_pyroute2_writes_them(ours: Request, fields: Any, attributes: Any) -> None:
    expected = encoded(ifinfmsg, {"family": 0, **fields}, *attributes)
    assert decoded(ifinfmsg, ours.body) == decoded(ifinfmsg, expected)
    assert len(ours.body) == len(expected), "nothing that pyroute2 does not know"


def test_addresses_are_written_as_pyroute2_writes_them() -> None:
    ours = rtnl.new_address(5, rtnl.Prefix("10.88.0.2/16"), "eth0")
    names = {"IFA_LOCAL": "10.88.0.2", "IFA_ADDRESS": "10.88.0.2", "IFA_BROADCAST": "10.88.255.255"}
    assert ours.body == encoded(ifaddrmsg, {"family": 2, "prefixlen": 16, "index": 5}, *names.items())


def test_every_message_of_the_table_is_understood_in_full() -> None:
    for request in rules.definition():
        text = str(read(request))
        assert "UNKNOWN" not in text, (request.about, text)
        assert text.count("plugengine") == 1, "every message names the table"


def test_a_set_a_chain_and_elements_say_what_they_should() -> None:
    new_set = read(nft.new_set("t", "nets", 4, key=nft.TYPE_IPV4_ADDR, key_bytes=4, flags=nft.NFT_SET_INTERVAL))
    assert {key: new_set[key] for key in ("NFTA_SET_NAME", "NFTA_SET_KEY_LEN", "NFTA_SET_FLAGS")} == {
        "NFTA_SET_NAME": "nets",
        "NFTA_SET_KEY_LEN": 4,
        "NFTA_SET_FLAGS": {"NFT_SET_INTERVAL"},
    }
    chain = read(nft.new_chain("t", "forward", kind="filter", hook=nft.NF_INET_FORWARD, priority=-5))
    assert (chain["NFTA_CHAIN_TYPE"], chain["NFTA_CHAIN_POLICY"]) == ("filter", 1)
    assert chain["NFTA_CHAIN_HOOK"] == {"NFTA_HOOK_HOOKNUM": 2, "NFTA_HOOK_PRIORITY": -5}
    for make in (nft.add_elements, nft.delete_elements):
        (one,) = read(make("t", "ports", nft.element(b"key!", data=b"data")))["NFTA_SET_ELEM_LIST_ELEMENTS"]
        assert one["NFTA_SET_ELEM_KEY"] == {"NFTA_DATA_VALUE": b"key!"}
        assert one["NFTA_SET_ELEM_DATA"] == {"NFTA_DATA_VALUE": b"data"}


def test_rules_say_what_they_should() -> None:
    rule = [
        expressions.out_interface("bridges", inverted=True),
        expressions.dnat_by_port("ports"),
        expressions.verdict(0),
    ]
    found = read(nft.new_rule("t", "c", rule))["NFTA_RULE_EXPRESSIONS"]
    named = [(each["NFTA_EXPR_NAME"], each["NFTA_EXPR_DATA"]) for each in found]
    assert [name for name, _data in named] == ["meta", "lookup", "meta", "payload", "lookup", "nat", "immediate"]
    data = [content for _name, content in named]
    assert data[0] == {"NFTA_META_KEY": "NFT_META_OIFNAME", "NFTA_META_DREG": "NFT_REG_1"}
    assert data[1]["NFTA_LOOKUP_FLAGS"] == {"NFT_LOOKUP_F_INV"}
    assert data[3] == {
        "NFTA_PAYLOAD_DREG": "NFT_REG32_01",
        "NFTA_PAYLOAD_BASE": "NFT_PAYLOAD_TRANSPORT_HEADER",
        "NFTA_PAYLOAD_OFFSET": 2,
        "NFTA_PAYLOAD_LEN": 2,
    }
    assert (data[5]["NFTA_NAT_TYPE"], data[5]["NFTA_NAT_REG_PROTO_MIN"]) == ("NFT_NAT_DNAT", "NFT_REG32_01")
    assert data[6]["NFTA_IMMEDIATE_DATA"] == {"NFTA_DATA_VERDICT": {"NFTA_VERDICT_CODE": "NF_DROP"}}
