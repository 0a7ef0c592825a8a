"""The expressions rules are made of, as bytes; pure. See include/uapi/linux/netfilter/nf_tables.h."""

from __future__ import annotations

import socket
import struct

from plugengine.kernel.netlink import attr, attr_be32, attr_str, nest

from plugengine_net_bridge import nft

# include/uapi/linux/rtnetlink.h
RTN_LOCAL = 2
# include/uapi/linux/netfilter/nf_conntrack_common.h
IPS_DST_NAT = 1 << 5
# NF_CT_STATE_BIT of IP_CT_ESTABLISHED and IP_CT_RELATED
STATE_ESTABLISHED = 1 << 1
STATE_RELATED = 1 << 2

# struct iphdr; the transport header's destination port is at the same place in tcp, udp and sctp
_SADDR_OFFSET = 12
_DADDR_OFFSET = 16
_ADDR_BYTES = 4
_DPORT_OFFSET = 2
_DPORT_BYTES = 2
_LOOPBACK_NETWORK = b"\x7f"  # the first byte of 127.0.0.0/8

_U32 = struct.Struct("=I")


def in_interface(names: str) -> bytes:
    """Match packets that came in through an interface of a set."""
    return _meta(nft.NFT_META_IIFNAME, nft.NFT_REG_1) + _lookup(names)


def out_interface(names: str, *, inverted: bool = False) -> bytes:
    """Match packets that leave through an interface of a set, or not of it."""
    return _meta(nft.NFT_META_OIFNAME, nft.NFT_REG_1) + _lookup(names, inverted=inverted)


def interfaces(pairs: str) -> bytes:
    """Match packets by the interfaces they come from and go to."""
    load = _meta(nft.NFT_META_IIFNAME, nft.NFT_REG_1) + _meta(nft.NFT_META_OIFNAME, nft.NFT_REG_2)
    return load + _lookup(pairs)


def in_interface_index(indexes: str) -> bytes:
    """Match packets that came in through an interface whose index is in a set, whatever it is called by now."""
    return _meta(nft.NFT_META_IIF, nft.NFT_REG_1) + _lookup(indexes)


def in_interface_is(name: str) -> bytes:
    """Match packets that came in through one interface."""
    return _meta(nft.NFT_META_IIFNAME, nft.NFT_REG_1) + _compare(nft.interface_key(name))


def out_interface_is(name: str) -> bytes:
    """Match packets that leave through one interface."""
    return _meta(nft.NFT_META_OIFNAME, nft.NFT_REG_1) + _compare(nft.interface_key(name))


def from_loopback_network() -> bytes:
    """Match packets from 127.0.0.0/8."""
    return _network_header(_SADDR_OFFSET, len(_LOOPBACK_NETWORK), nft.NFT_REG_1) + _compare(_LOOPBACK_NETWORK)


def to_loopback_network() -> bytes:
    """Match packets to 127.0.0.0/8."""
    return _network_header(_DADDR_OFFSET, len(_LOOPBACK_NETWORK), nft.NFT_REG_1) + _compare(_LOOPBACK_NETWORK)


def from_addresses(names: str) -> bytes:
    """Match packets whose source is in a set of addresses."""
    return _network_header(_SADDR_OFFSET, _ADDR_BYTES, nft.NFT_REG_1) + _lookup(names)


def to_local_address() -> bytes:
    """Match packets to an address of this host."""
    load = _expression(
        "fib",
        attr_be32(1, nft.NFT_REG_1),
        attr_be32(2, nft.NFT_FIB_RESULT_ADDRTYPE),
        attr_be32(3, nft.NFTA_FIB_F_DADDR),
    )
    return load + _compare(_U32.pack(RTN_LOCAL))


def connection_is_dnat() -> bytes:
    """Match packets of connections whose destination was rewritten: those to published ports."""
    return _connection(nft.NFT_CT_STATUS, IPS_DST_NAT)


def connection_is_known() -> bytes:
    """Match packets of connections that were let through before, and what belongs to them (ICMP errors)."""
    return _connection(nft.NFT_CT_STATE, STATE_ESTABLISHED | STATE_RELATED)


def dnat_by_address_and_port(mapping: str) -> bytes:
    """Send the packet where a map says, by protocol, destination and port; no match, no effect."""
    load = (
        _meta(nft.NFT_META_L4PROTO, nft.NFT_REG32_00)
        + _network_header(_DADDR_OFFSET, _ADDR_BYTES, nft.NFT_REG32_01)
        + _destination_port(nft.NFT_REG32_02)
    )
    return load + _dnat(mapping)


def dnat_by_port(mapping: str) -> bytes:
    """Send the packet where a map says, by protocol and port; no match, no effect."""
    return _meta(nft.NFT_META_L4PROTO, nft.NFT_REG32_00) + _destination_port(nft.NFT_REG32_01) + _dnat(mapping)


def masquerade() -> bytes:
    """Give the packet the address of the interface it leaves through."""
    return _expression("masq")


def verdict(code: int) -> bytes:
    """End the rule with NF_ACCEPT, NF_DROP or NFT_RETURN."""
    what = nest(2, nest(nft.NFTA_DATA_VERDICT, attr_be32(nft.NFTA_VERDICT_CODE, code)))
    return _expression("immediate", attr_be32(1, nft.NFT_REG_VERDICT), what)


def _expression(name: str, *parts: bytes) -> bytes:
    data = nest(nft.NFTA_EXPR_DATA, *parts)
    return nest(nft.NFTA_LIST_ELEM, attr_str(nft.NFTA_EXPR_NAME, name), data)


def _meta(key: int, register: int) -> bytes:
    return _expression("meta", attr_be32(2, key), attr_be32(1, register))  # NFTA_META_KEY, _DREG


def _network_header(offset: int, size: int, register: int) -> bytes:
    return _payload(nft.NFT_PAYLOAD_NETWORK_HEADER, offset, size, register)


def _destination_port(register: int) -> bytes:
    return _payload(nft.NFT_PAYLOAD_TRANSPORT_HEADER, _DPORT_OFFSET, _DPORT_BYTES, register)


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    # NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
    return _expression("payload", attr_be32(1, register), attr_be32(2, base), attr_be32(3, offset), attr_be32(4, size))


def _compare(value: bytes, operation: int = nft.NFT_CMP_EQ) -> bytes:
    # NFTA_CMP_SREG, _OP, _DATA
    return _expression(
        "cmp", attr_be32(1, nft.NFT_REG_1), attr_be32(2, operation), nest(3, attr(nft.NFTA_DATA_VALUE, value))
    )


def _connection(key: int, mask: int) -> bytes:
    load = _expression("ct", attr_be32(2, key), attr_be32(1, nft.NFT_REG_1))  # NFTA_CT_KEY, _DREG
    # NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
    masked = _expression(
        "bitwise",
        attr_be32(1, nft.NFT_REG_1),
        attr_be32(2, nft.NFT_REG_1),
        attr_be32(3, _U32.size),
        nest(4, attr(nft.NFTA_DATA_VALUE, _U32.pack(mask))),
        nest(5, attr(nft.NFTA_DATA_VALUE, bytes(_U32.size))),
    )
    return load + masked + _compare(bytes(_U32.size), nft.NFT_CMP_NEQ)


def _lookup(name: str, *, inverted: bool = False, into: int | None = None) -> bytes:
    # NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS
    return _expression(
        "lookup",
        attr_str(1, name),
        attr_be32(2, nft.NFT_REG_1),
        b"" if into is None else attr_be32(3, into),
        attr_be32(5, nft.NFT_LOOKUP_F_INV) if inverted else b"",
    )


def _dnat(mapping: str) -> bytes:
    # NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN: the map's value fills two registers
    return _lookup(mapping, into=nft.NFT_REG_1) + _expression(
        "nat",
        attr_be32(1, nft.NFT_NAT_DNAT),
        attr_be32(2, socket.AF_INET),
        attr_be32(3, nft.NFT_REG32_00),
        attr_be32(5, nft.NFT_REG32_01),
    )
