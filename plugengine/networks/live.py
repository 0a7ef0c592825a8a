"""What the kernel has of a network just now, read through pyroute2: links, addresses, routes, neighbours, rules.

Loading pyroute2 takes longer than starting a container, so this is imported where somebody looks at a network only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.main import NFTables

from plugengine.kernel.rtnetlink import KIND_BRIDGE
from plugengine.objects import LiveLink, LiveNeighbour, LiveNetwork, LiveRoute, LiveRule

# include/uapi/linux/rtnetlink.h, neighbour.h
_RT_TABLE_MAIN: Final = 254
_NUD: Final = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x80: "permanent",
}
# include/uapi/linux/netfilter.h, enum nf_proto
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: KIND_BRIDGE, 10: "ip6"}
# What nft(8) calls the type of an interface's name or index; a concatenation has six bits for each part.
_INTERFACES: Final = (41, 20)
_TYPE_BITS: Final = 6


def look(names: Iterable[str]) -> LiveNetwork:
    """Return what there is of links of these names, of the bridges they are ports of, and of those bridges' ports."""
    with IPRoute() as ip:
        links = _related(list(ip.get_links()), frozenset(names))
        addresses = [(each["index"], f"{each.get('address')}/{each['prefixlen']}") for each in ip.get_addr()]
        routes = [_route(each, links) for each in ip.get_routes() if _is_shown(each, links)]
        neighbours = [
            LiveNeighbour(
                address=each.get("dst") or "",
                mac=each.get("lladdr"),
                link=links[each["ifindex"]].get("ifname"),
                state=_NUD[each["state"]],
            )
            for each in ip.get_neighbours()
            if each["ifindex"] in links and each["state"] in _NUD
        ]
    return LiveNetwork(
        links=tuple(_link(each, links, addresses) for each in links.values()),
        routes=tuple(routes),
        neighbours=tuple(neighbours),
        rules=tuple(_rules({each.get("ifname") for each in links.values()})),
    )


def _related(found: list[Any], names: frozenset[str]) -> dict[int, Any]:
    """Return the links by index."""
    chosen = {each["index"] for each in found if each.get("ifname") in names}
    masters = {each.get("master") for each in found if each["index"] in chosen} | chosen
    bridges = {each["index"] for each in found if each["index"] in masters and _kind(each) == KIND_BRIDGE}
    return {
        each["index"]: each
        for each in found
        if each["index"] in chosen | bridges or (each.get("master") is not None and each.get("master") in bridges)
    }


def _link(message: Any, links: Mapping[int, Any], addresses: list[tuple[int, str]]) -> LiveLink:
    master = links.get(message.get("master"))
    return LiveLink(
        name=message.get("ifname"),
        kind=_kind(message),
        mac=message.get("address"),
        mtu=message.get("mtu") or 0,
        state=(message.get("operstate") or "unknown").lower(),
        master=None if master is None else master.get("ifname"),
        addresses=tuple(address for index, address in addresses if index == message["index"]),
    )


def _kind(message: Any) -> str:
    information = message.get("linkinfo")
    return (information.get("kind") if information else None) or "device"


def _is_shown(message: Any, links: Mapping[int, Any]) -> bool:
    return message.get("oif") in links and message.get("table") == _RT_TABLE_MAIN


def _route(message: Any, links: Mapping[int, Any]) -> LiveRoute:
    destination = message.get("dst")
    return LiveRoute(
        destination=f"{destination}/{message['dst_len']}" if destination else "default",
        gateway=message.get("gateway"),
        link=links[message.get("oif")].get("ifname"),
    )


def _rules(names: set[str]) -> list[LiveRule]:
    """Return the nf_tables rules that name one of the links, or ask whether an interface is in a set."""
    try:
        with NFTables(nfgen_family=0) as nft:
            sets = {
                (each["nfgen_family"], each.get_attr("NFTA_SET_TABLE"), each.get_attr("NFTA_SET_NAME"))
                for each in nft.get_sets()
                if _of_interfaces(each.get_attr("NFTA_SET_KEY_TYPE") or 0)
            }
            rules = list(nft.get_rules())
    except (NetlinkError, OSError):
        return []  # a kernel without nf_tables
    found = []
    for rule in rules:
        family, table = rule["nfgen_family"], rule.get_attr("NFTA_RULE_TABLE")
        words = [_in_words(each) for each in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ()]
        if names & set(words) or any((family, table, word.removeprefix("@")) in sets for word in words):
            text = " ".join(words)
            chain = rule.get_attr("NFTA_RULE_CHAIN")
            found.append(LiveRule(family=_FAMILIES.get(family, str(family)), table=table, chain=chain, text=text))
    return found


def _of_interfaces(key_type: int) -> bool:
    while key_type:
        if key_type & ((1 << _TYPE_BITS) - 1) in _INTERFACES:
            return True
        key_type >>= _TYPE_BITS
    return False


def _in_words(expression: Any) -> str:
    """Return one expression of a rule, roughly as nft(8) has it."""
    name, data = str(expression.get_attr("NFTA_EXPR_NAME")), expression.get_attr("NFTA_EXPR_DATA")
    if data is None:
        return name
    if name == "meta":
        return str(data.get_attr("NFTA_META_KEY")).removeprefix("NFT_META_").lower()
    if name == "lookup":
        return f"@{data.get_attr('NFTA_LOOKUP_SET')}"
    if name == "cmp":
        return _value(data.get_attr("NFTA_CMP_DATA"))
    if name == "immediate":
        verdict = data.get_attr("NFTA_IMMEDIATE_DATA").get_attr("NFTA_DATA_VERDICT")
        return str(verdict.get_attr("NFTA_VERDICT_CODE")).removeprefix("NF_").lower() if verdict else name
    return name


def _value(data: Any) -> str:
    raw = bytes(data.get_attr("NFTA_DATA_VALUE") or b"") if data else b""
    text = raw.rstrip(b"\0")
    return text.decode() if text.isascii() and text.decode().isprintable() and len(text) > 1 else f"0x{raw.hex()}"
