"""Requests of nf_tables over netlink, as bytes. See include/uapi/linux/netfilter/nf_tables.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from plugengine.kernel import netlink
from plugengine.kernel.netlink import NetlinkSocket, Request, attr, attr_be32, attr_str, attributes, nest

# include/uapi/linux/netfilter/nfnetlink.h
NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN = 0x10
NFNL_MSG_BATCH_END = 0x11
NFNL_BATCH_GENID = 1

NFT_MSG_NEWTABLE = 0
NFT_MSG_DELTABLE = 2
NFT_MSG_NEWCHAIN = 3
NFT_MSG_GETCHAIN = 4
NFT_MSG_NEWRULE = 6
NFT_MSG_GETRULE = 7
NFT_MSG_DELRULE = 8
NFT_MSG_NEWSET = 9
NFT_MSG_DELSET = 11
NFT_MSG_NEWSETELEM = 12
NFT_MSG_GETSETELEM = 13
NFT_MSG_DELSETELEM = 14
NFT_MSG_GETGEN = 16

NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE = 1
NFTA_CHAIN_NAME = 3
NFTA_CHAIN_HOOK = 4
NFTA_CHAIN_POLICY = 5
NFTA_CHAIN_USE = 6
NFTA_CHAIN_TYPE = 7
NFTA_HOOK_HOOKNUM = 1
NFTA_HOOK_PRIORITY = 2
NFTA_RULE_TABLE = 1
NFTA_RULE_CHAIN = 2
NFTA_RULE_HANDLE = 3
NFTA_RULE_EXPRESSIONS = 4
NFTA_RULE_USERDATA = 7
NFTA_LIST_ELEM = 1
NFTA_SET_TABLE = 1
NFTA_SET_NAME = 2
NFTA_SET_FLAGS = 3
NFTA_SET_KEY_TYPE = 4
NFTA_SET_KEY_LEN = 5
NFTA_SET_DATA_TYPE = 6
NFTA_SET_DATA_LEN = 7
NFTA_SET_ID = 10
NFTA_SET_USERDATA = 13
NFTA_SET_ELEM_LIST_TABLE = 1
NFTA_SET_ELEM_LIST_SET = 2
NFTA_SET_ELEM_LIST_ELEMENTS = 3
NFTA_SET_ELEM_KEY = 1
NFTA_SET_ELEM_DATA = 2
NFTA_SET_ELEM_FLAGS = 3
NFTA_SET_ELEM_USERDATA = 6
NFT_SET_ELEM_INTERVAL_END = 1
NFTA_DATA_VALUE = 1
NFTA_DATA_VERDICT = 2
NFTA_VERDICT_CODE = 1
NFTA_GEN_ID = 1
NFTA_EXPR_NAME = 1
NFTA_EXPR_DATA = 2

NFT_SET_INTERVAL = 0x4
NFT_SET_MAP = 0x8

NF_DROP = 0
NF_ACCEPT = 1
NFT_RETURN = -5

# include/uapi/linux/netfilter.h
NF_INET_PRE_ROUTING = 0
NF_INET_FORWARD = 2
NF_INET_LOCAL_OUT = 3
NF_INET_POST_ROUTING = 4

# Registers: four of 16 bytes, or sixteen of 4 bytes that begin at the same places (enum nft_registers)
NFT_REG_VERDICT = 0
NFT_REG_1 = 1
NFT_REG_2 = 2
NFT_REG32_00 = 8
NFT_REG32_01 = 9
NFT_REG32_02 = 10

NFT_META_IIF = 4
NFT_META_IIFNAME = 6
NFT_META_OIFNAME = 7
NFT_META_L4PROTO = 16
NFT_PAYLOAD_NETWORK_HEADER = 1
NFT_PAYLOAD_TRANSPORT_HEADER = 2
NFT_CT_STATE = 0
NFT_CT_STATUS = 2
NFT_CMP_EQ = 0
NFT_CMP_NEQ = 1
NFT_LOOKUP_F_INV = 1
NFT_FIB_RESULT_ADDRTYPE = 3
NFTA_FIB_F_DADDR = 2
NFT_NAT_DNAT = 1

# nft(8) tells by these numbers how to print a set; the kernel only stores them. A concatenation is a number of
# digits of six bits. (src/datatype.c of nftables, enum datatypes)
TYPE_IPV4_ADDR = 7
TYPE_INET_PROTO = 12
TYPE_INET_SERVICE = 13
TYPE_IFINDEX = 20
TYPE_IFNAME = 41
_TYPE_BITS = 6
# libnftnl's set user data: tag, length, and the byte order in which nft(8) prints keys
BYTEORDER_HOST = 1
BYTEORDER_BIG = 2
_UDATA_SET_KEYBYTEORDER = 0
_UDATA_COMMENT = 0

_NFGENMSG = struct.Struct("!BBH")  # family, version, resource id
_NFNETLINK_V0 = 0
_U32 = struct.Struct("=I")
_BE32 = struct.Struct("!I")
IFNAMSIZ = 16


def concatenated(*types: int) -> int:
    """Return the number nft(8) knows a concatenated type by."""
    number = 0
    for one in types:
        number = number << _TYPE_BITS | one
    return number


def batch(requests: Sequence[Request], *, generation: int | None = None, commit: bool = True) -> list[Request]:
    """Return the requests as one transaction.

    Args:
        requests: What to do, all or nothing.
        generation: Do it only if nothing has changed since this generation; else ERESTART.
        commit: False sends no end, so that the kernel checks everything and then forgets it, as `nft --check`.
    """
    head = _NFGENMSG.pack(socket.AF_UNSPEC, _NFNETLINK_V0, NFNL_SUBSYS_NFTABLES)
    begin = head if generation is None else head + attr_be32(NFNL_BATCH_GENID, generation)
    framed = [Request(NFNL_MSG_BATCH_BEGIN, 0, begin, "nf_tables", ack=False), *requests]
    if commit:
        framed.append(Request(NFNL_MSG_BATCH_END, 0, head, "nf_tables", ack=False))
    return framed


def request(kind: int, flags: int, about: str, *parts: bytes, family: int = socket.AF_INET) -> Request:
    """Return one message to nf_tables."""
    body = _NFGENMSG.pack(family, _NFNETLINK_V0, 0) + b"".join(parts)
    return Request(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body, about)


def generation(nf: NetlinkSocket) -> int:
    """Ask for the number that every change of any rule of the namespace raises."""
    ((_, body), *_) = nf.get(request(NFT_MSG_GETGEN, 0, "nf_tables"))
    return be32(reply_attributes(body)[NFTA_GEN_ID])


def reply_attributes(body: bytes) -> dict[int, bytes]:
    """Return the attributes of one reply."""
    return dict(attributes(body, _NFGENMSG.size))


def be32(data: bytes) -> int:
    """Return a number in network byte order."""
    return int(_BE32.unpack(data)[0])


# --- objects ------------------------------------------------------------------------------------------------


def new_table(table: str) -> Request:
    """Make a table; one that exists is kept."""
    return request(NFT_MSG_NEWTABLE, netlink.NLM_F_CREATE, f"table {table}", attr_str(NFTA_TABLE_NAME, table))


def delete_table(table: str) -> Request:
    """Delete a table with all that is in it."""
    return request(NFT_MSG_DELTABLE, 0, f"table {table}", attr_str(NFTA_TABLE_NAME, table))


def new_chain(table: str, chain: str, *, kind: str, hook: int, priority: int) -> Request:
    """Make a chain at a hook that lets pass what no rule decides; one that exists is kept."""
    return request(
        NFT_MSG_NEWCHAIN,
        netlink.NLM_F_CREATE,
        f"chain {table} {chain}",
        attr_str(NFTA_CHAIN_TABLE, table),
        attr_str(NFTA_CHAIN_NAME, chain),
        nest(NFTA_CHAIN_HOOK, attr_be32(NFTA_HOOK_HOOKNUM, hook), attr_be32(NFTA_HOOK_PRIORITY, priority)),
        attr_be32(NFTA_CHAIN_POLICY, NF_ACCEPT),
        attr_str(NFTA_CHAIN_TYPE, kind),
    )


def get_chain(table: str, chain: str) -> Request:
    """Ask for one chain."""
    return request(
        NFT_MSG_GETCHAIN,
        0,
        f"chain {table} {chain}",
        attr_str(NFTA_CHAIN_TABLE, table),
        attr_str(NFTA_CHAIN_NAME, chain),
    )


def flush_chain(table: str, chain: str) -> Request:
    """Delete the rules of a chain."""
    return request(
        NFT_MSG_DELRULE,
        0,
        f"chain {table} {chain}",
        attr_str(NFTA_RULE_TABLE, table),
        attr_str(NFTA_RULE_CHAIN, chain),
    )


def new_rule(table: str, chain: str, expressions: Sequence[bytes], *, head: bool = False, comment: str = "") -> Request:
    """Add a rule at the end, or the head, of a chain."""
    return request(
        NFT_MSG_NEWRULE,
        netlink.NLM_F_CREATE | (0 if head else netlink.NLM_F_APPEND),
        f"rule in {table} {chain}",
        attr_str(NFTA_RULE_TABLE, table),
        attr_str(NFTA_RULE_CHAIN, chain),
        nest(NFTA_RULE_EXPRESSIONS, *expressions),
        attr(NFTA_RULE_USERDATA, _comment(comment)) if comment else b"",
    )


def get_rules(table: str, chain: str) -> Request:
    """Ask for the rules of a chain."""
    return request(
        NFT_MSG_GETRULE,
        netlink.NLM_F_DUMP,
        f"rules of {table} {chain}",
        attr_str(NFTA_RULE_TABLE, table),
        attr_str(NFTA_RULE_CHAIN, chain),
    )


def delete_rule(table: str, chain: str, handle: bytes) -> Request:
    """Delete one rule by the handle the kernel gave it."""
    return request(
        NFT_MSG_DELRULE,
        0,
        f"rule in {table} {chain}",
        attr_str(NFTA_RULE_TABLE, table),
        attr_str(NFTA_RULE_CHAIN, chain),
        attr(NFTA_RULE_HANDLE, handle),
    )


def new_set(
    table: str, name: str, number: int, *, key: int, key_bytes: int, flags: int = 0, data: int = 0, data_bytes: int = 0
) -> Request:
    """Make a set, or with `data` a map; one that exists is kept."""
    order = BYTEORDER_HOST if key in (TYPE_IFNAME, TYPE_IFINDEX) else BYTEORDER_BIG
    parts = [
        attr_str(NFTA_SET_TABLE, table),
        attr_str(NFTA_SET_NAME, name),
        attr_be32(NFTA_SET_FLAGS, flags | (NFT_SET_MAP if data else 0)),
        attr_be32(NFTA_SET_KEY_TYPE, key),
        attr_be32(NFTA_SET_KEY_LEN, key_bytes),
        attr_be32(NFTA_SET_ID, number),
        attr(NFTA_SET_USERDATA, bytes((_UDATA_SET_KEYBYTEORDER, _U32.size)) + _U32.pack(order)),
    ]
    if data:
        parts += [attr_be32(NFTA_SET_DATA_TYPE, data), attr_be32(NFTA_SET_DATA_LEN, data_bytes)]
    return request(NFT_MSG_NEWSET, netlink.NLM_F_CREATE, f"set {table} {name}", *parts)


def delete_empty_set(table: str, name: str) -> Request:
    """Delete a set that has no elements; EBUSY: it has some."""
    return request(
        NFT_MSG_DELSET,
        netlink.NLM_F_NONREC,
        f"set {table} {name}",
        attr_str(NFTA_SET_TABLE, table),
        attr_str(NFTA_SET_NAME, name),
    )


# --- elements -----------------------------------------------------------------------------------------------


def element(key: bytes, *, data: bytes = b"", flags: int = 0, comment: str = "") -> bytes:
    """Return one element of a set."""
    return nest(
        NFTA_LIST_ELEM,
        nest(NFTA_SET_ELEM_KEY, attr(NFTA_DATA_VALUE, key)),
        nest(NFTA_SET_ELEM_DATA, attr(NFTA_DATA_VALUE, data)) if data else b"",
        attr_be32(NFTA_SET_ELEM_FLAGS, flags) if flags else b"",
        attr(NFTA_SET_ELEM_USERDATA, _comment(comment)) if comment else b"",
    )


def add_elements(table: str, name: str, *elements: bytes, exclusive: bool = False) -> Request:
    """Add elements; with `exclusive` EEXIST if one is there, else EBUSY if it is there with other data."""
    flags = netlink.NLM_F_CREATE | (netlink.NLM_F_EXCL if exclusive else 0)
    return _elements(NFT_MSG_NEWSETELEM, flags, table, name, elements)


def delete_elements(table: str, name: str, *elements: bytes) -> Request:
    """Delete elements; ENOENT if one is missing."""
    return _elements(NFT_MSG_DELSETELEM, 0, table, name, elements)


def get_elements(table: str, name: str, *elements: bytes) -> Request:
    """Ask for these elements, or for all; ENOENT if one is missing."""
    return _elements(NFT_MSG_GETSETELEM, 0 if elements else netlink.NLM_F_DUMP, table, name, elements)


def parse_elements(body: bytes) -> list[tuple[bytes, bytes, str]]:
    """Return (key, data, comment) of the elements in one reply."""
    found = []
    for _, one in attributes(reply_attributes(body).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        parts = dict(attributes(one))
        found.append(
            (
                _value(parts.get(NFTA_SET_ELEM_KEY, b"")),
                _value(parts.get(NFTA_SET_ELEM_DATA, b"")),
                parse_comment(parts.get(NFTA_SET_ELEM_USERDATA, b"")),
            )
        )
    return found


def parse_comment(userdata: bytes) -> str:
    """Return the comment in user data: tag, length, text with its terminator."""
    offset = 0
    while offset + 2 <= len(userdata):
        tag, size = userdata[offset], userdata[offset + 1]
        if tag == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + size].rstrip(b"\0").decode(errors="replace")
        offset += 2 + size
    return ""


def interface_key(name: str) -> bytes:
    """Return an interface name as sets hold it."""
    return name.encode().ljust(IFNAMSIZ, b"\0")


def index_key(index: int) -> bytes:
    """Return an interface index as sets hold it."""
    return _U32.pack(index)


def key_index(key: bytes) -> int:
    """Return the interface index of a key."""
    return int(_U32.unpack(key)[0])


def _elements(kind: int, flags: int, table: str, name: str, elements: Sequence[bytes]) -> Request:
    return request(
        kind,
        flags,
        f"set {table} {name}",
        attr_str(NFTA_SET_ELEM_LIST_TABLE, table),
        attr_str(NFTA_SET_ELEM_LIST_SET, name),
        nest(NFTA_SET_ELEM_LIST_ELEMENTS, *elements) if elements else b"",
    )


def _comment(text: str) -> bytes:
    data = text.encode() + b"\0"
    return bytes((_UDATA_COMMENT, len(data))) + data


def _value(data: bytes) -> bytes:
    return dict(attributes(data)).get(NFTA_DATA_VALUE, b"")
