"""See what is in a network namespace: links, addresses, routes, packet filter rules; by netlink, of the current one."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import Final

from msgspec import Struct

from plugengine.kernel import rtnetlink, sysctl
from plugengine.kernel.netlink import (
    NETLINK_NETFILTER,
    NETLINK_ROUTE,
    NLM_F_DUMP,
    NetlinkSocket,
    Request,
    attr,
    attributes,
)

# include/uapi/linux/rtnetlink.h
RTM_GETADDR: Final = 22
RTM_GETROUTE: Final = 26
RTN_UNICAST: Final = 1
RT_TABLE_MAIN: Final = 254
RTA_DST: Final = 1
RTA_GATEWAY: Final = 5

# include/uapi/linux/if_addr.h, if.h
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFF_RUNNING: Final = 1 << 6
RT_SCOPE_LINK: Final = 253

# include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_MSG_GETRULE: Final = 7
NFT_MSG_GETSET: Final = 10
NFT_MSG_GETSETELEM: Final = 13
NFTA_RULE_TABLE: Final = 1
NFTA_RULE_CHAIN: Final = 2
NFTA_RULE_EXPRESSIONS: Final = 4
NFTA_RULE_USERDATA: Final = 7
NFTA_SET_TABLE: Final = 1
NFTA_SET_NAME: Final = 2
NFTA_SET_ELEM_LIST_TABLE: Final = 1
NFTA_SET_ELEM_LIST_SET: Final = 2
NFTA_SET_ELEM_LIST_ELEMENTS: Final = 3
NFTA_EXPR_NAME: Final = 1

_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_NFGENMSG: Final = struct.Struct("!BBH")
_LINK_LOCAL: Final = "fe80:"  # the kernel makes these routes by itself


class Link(Struct, frozen=True, kw_only=True):
    """One link of the namespace."""

    name: str
    kind: str  # such as veth; empty for a device
    mac: str
    mtu: int
    up: bool
    running: bool  # frames pass
    addresses: tuple[str, ...]  # CIDR, without those the kernel gives for the link alone


class Route(Struct, frozen=True, kw_only=True):
    """One route of the main table."""

    destination: str  # CIDR, or "default"
    gateway: str | None


def links() -> dict[str, Link]:
    """Return the links by name."""
    with NetlinkSocket(NETLINK_ROUTE) as route:
        found = rtnetlink.find_all(route)
        addresses = _addresses(route)
    return {
        link.name: Link(
            name=link.name,
            kind=link.kind,
            mac=link.mac.hex(":"),
            mtu=link.mtu,
            up=link.up,
            running=bool(link.flags & IFF_RUNNING),
            addresses=tuple(addresses.get(link.index, ())),
        )
        for link in found
    }


def _addresses(route: NetlinkSocket) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for _, body in route.get(Request(RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(0, 0, 0, 0, 0), "addresses")):
        family, length, _, scope, index = _IFADDRMSG.unpack_from(body)
        values = dict(attributes(body, _IFADDRMSG.size))
        data = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
        if data is not None and scope != RT_SCOPE_LINK:
            found.setdefault(index, []).append(f"{socket.inet_ntop(family, data)}/{length}")
    return found


def forwarding() -> tuple[str, ...]:
    """Return which interfaces, and those to come (`default`, `all`), forward packets, each with its family."""
    found = []
    for family in ("ipv4", "ipv6"):
        directory = f"/proc/sys/net/{family}/conf"
        for name in sorted(os.listdir(directory)) if os.path.exists(directory) else ():
            with suppress(FileNotFoundError):  # a link that has just gone
                if sysctl.read(f"net/{family}/conf/{name}/forwarding") != "0":
                    found.append(f"{name} ({family})")
    return tuple(found)


def ipv6_addresses() -> dict[str, str]:
    """Return the link of each IPv6 address, also of those the kernel gives for the link alone."""
    try:
        with open("/proc/thread-self/net/if_inet6", encoding="ascii") as stream:
            lines = [line.split() for line in stream]
    except FileNotFoundError:  # a kernel without IPv6
        return {}
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[0])): line[-1] for line in lines}


def routes() -> tuple[Route, ...]:
    """Return the routes to other machines, of both families."""
    made = []
    with NetlinkSocket(NETLINK_ROUTE) as route:
        for _, body in route.get(Request(RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "routes")):
            family, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
            values = dict(attributes(body, _RTMSG.size))
            if family not in {socket.AF_INET, socket.AF_INET6} or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
                continue
            destination = values.get(RTA_DST)
            text = f"{socket.inet_ntop(family, destination)}/{length}" if destination else "default"
            if text.startswith(_LINK_LOCAL):
                continue
            gateway = values.get(RTA_GATEWAY)
            made.append(Route(destination=text, gateway=socket.inet_ntop(family, gateway) if gateway else None))
    return tuple(made)


def rules() -> tuple[str, ...]:
    """Return the rules and set elements of nf_tables in words; counters and handles left out, so they compare."""
    with NetlinkSocket(NETLINK_NETFILTER) as nf:
        try:
            found = [_rule(body) for _, body in nf.get(_ask(NFT_MSG_GETRULE, socket.AF_UNSPEC, "rules"))]
            for _, body in nf.get(_ask(NFT_MSG_GETSET, socket.AF_UNSPEC, "sets")):
                found += _elements(nf, body)
        except OSError:
            return ()  # a kernel without nf_tables
    return tuple(sorted(found))


def _ask(message: int, family: int, about: str, body: bytes = b"") -> Request:
    return Request(NFNL_SUBSYS_NFTABLES << 8 | message, NLM_F_DUMP, _NFGENMSG.pack(family, 0, 0) + body, about)


def _rule(body: bytes) -> str:
    found = dict(attributes(body, _NFGENMSG.size))
    expressions = [
        _text(dict(attributes(expression)).get(NFTA_EXPR_NAME, b""))
        for _, expression in attributes(found.get(NFTA_RULE_EXPRESSIONS, b""))
    ]
    words = [_text(found[NFTA_RULE_TABLE]), _text(found[NFTA_RULE_CHAIN]), *expressions]
    return f"rule {' '.join(words)} {_printable(found.get(NFTA_RULE_USERDATA, b''))}".rstrip()


def _elements(nf: NetlinkSocket, body: bytes) -> list[str]:
    found = dict(attributes(body, _NFGENMSG.size))
    table, name = found[NFTA_SET_TABLE], found[NFTA_SET_NAME]
    where = attr(NFTA_SET_ELEM_LIST_TABLE, table) + attr(NFTA_SET_ELEM_LIST_SET, name)
    made = []
    for _, reply in nf.get(_ask(NFT_MSG_GETSETELEM, body[0], _text(name), where)):
        listed = dict(attributes(reply, _NFGENMSG.size)).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
        made += [f"element {_text(table)} {_text(name)} {element.hex()}" for _, element in attributes(listed)]
    return made


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _printable(data: bytes) -> str:
    return "".join(chr(byte) for byte in data if 0x20 <= byte < 0x7F)
