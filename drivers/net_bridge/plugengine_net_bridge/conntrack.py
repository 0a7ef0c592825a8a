"""Forget tracked connections that a change of published ports has made wrong.

The rules decide only about the first packet of a connection, and for UDP a connection lasts as long as someone keeps
asking. A client that asked before a port was published would never be sent to the container, and one that goes on
asking after the container is gone would be sent to whoever gets its address next.
"""

from __future__ import annotations

import errno
import socket
import struct

from plugengine.kernel import netlink
from plugengine.kernel.netlink import NetlinkSocket, Request, attr, attr_u32, attributes, nest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugengine.model import Port

# include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET = 1
IPCTNL_MSG_CT_DELETE = 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_ID = 12
CTA_FILTER = 25
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_V4_SRC = 1
CTA_IP_V4_DST = 2
CTA_PROTO_NUM = 1
CTA_PROTO_DST_PORT = 3
# nf_conntrack_netlink.c, since Linux 5.8
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_REPLY_FLAGS = 2
# include/net/netfilter/nf_internals.h
CTA_FILTER_F_CTA_IP_SRC = 1 << 0
CTA_FILTER_F_CTA_PROTO_NUM = 1 << 3
CTA_FILTER_F_CTA_PROTO_DST_PORT = 1 << 5

_NFGENMSG = struct.Struct("!BBH")
_BE16 = struct.Struct("!H")
_ANY = "0.0.0.0"  # noqa: S104 - the notation for every address of the host
# A kernel without nf_conntrack_netlink can't be asked; its entries go when they are old.
_CANNOT = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT))


def forget_guest(nf: NetlinkSocket, address: str) -> None:
    """Forget every connection to a container."""
    packed = socket.inet_pton(socket.AF_INET, address)
    pattern = _pattern(
        CTA_TUPLE_REPLY,
        nest(CTA_TUPLE_IP, attr(CTA_IP_V4_SRC, packed)),
        CTA_FILTER_REPLY_FLAGS,
        CTA_FILTER_F_CTA_IP_SRC,
    )
    for entry in _matching(nf, pattern):
        if _address(entry, CTA_TUPLE_REPLY, CTA_IP_V4_SRC) == packed:
            _delete(nf, entry)


def forget_ports(nf: NetlinkSocket, ports: Sequence[Port]) -> None:
    """Forget the UDP connections to ports of the host, so that the rules are asked anew."""
    for port in ports:
        if port.protocol == "udp":
            _forget_port(nf, port)


def _forget_port(nf: NetlinkSocket, port: Port) -> None:
    proto = nest(
        CTA_TUPLE_PROTO,
        attr(CTA_PROTO_NUM, bytes((socket.IPPROTO_UDP,))),
        attr(CTA_PROTO_DST_PORT, _BE16.pack(port.host_port)),
    )
    flags = CTA_FILTER_F_CTA_PROTO_NUM | CTA_FILTER_F_CTA_PROTO_DST_PORT
    for entry in _matching(nf, _pattern(CTA_TUPLE_ORIG, proto, CTA_FILTER_ORIG_FLAGS, flags)):
        if _published_at(port, _address(entry, CTA_TUPLE_ORIG, CTA_IP_V4_DST)):
            _delete(nf, entry)


def _published_at(port: Port, target: bytes) -> bool:
    if port.host_ip == _ANY:
        return _is_local(target)  # not what goes through this host to the same port elsewhere
    return target == socket.inet_pton(socket.AF_INET, port.host_ip)


def _pattern(direction: int, part: bytes, which: int, flags: int) -> bytes:
    # attribute by attribute what to compare, in one direction; zero for the other
    other = CTA_FILTER_ORIG_FLAGS if which == CTA_FILTER_REPLY_FLAGS else CTA_FILTER_REPLY_FLAGS
    return nest(direction, part) + nest(CTA_FILTER, attr_u32(which, flags), attr_u32(other, 0))


def _matching(nf: NetlinkSocket, pattern: bytes) -> list[dict[int, bytes]]:
    try:
        replies = nf.get(_request(IPCTNL_MSG_CT_GET, netlink.NLM_F_DUMP, pattern))
    except OSError as exc:
        if exc.errno in _CANNOT:
            return []
        raise
    return [dict(attributes(body, _NFGENMSG.size)) for _, body in replies]


def _delete(nf: NetlinkSocket, entry: dict[int, bytes]) -> None:
    # the id tells it from a younger connection between the same ends
    body = attr(CTA_TUPLE_ORIG | netlink.NLA_F_NESTED, entry[CTA_TUPLE_ORIG]) + attr(CTA_ID, entry[CTA_ID])
    nf.execute(_request(IPCTNL_MSG_CT_DELETE, 0, body), accept=frozenset((errno.ENOENT,)))


def _request(kind: int, flags: int, body: bytes) -> Request:
    head = _NFGENMSG.pack(socket.AF_INET, 0, 0)
    return Request(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, head + body, "connection tracking")


def _address(entry: dict[int, bytes], direction: int, end: int) -> bytes:
    return dict(attributes(dict(attributes(entry.get(direction, b""))).get(CTA_TUPLE_IP, b""))).get(end, b"")


def _is_local(packed: bytes) -> bool:
    """Tell whether an address is the host's: then it can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((socket.inet_ntop(socket.AF_INET, packed), 0))
        except (OSError, ValueError):
            return False
    return True
