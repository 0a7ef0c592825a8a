"""Requests of rtnetlink(7) that the engine has no need for itself: a VXLAN link, and where it sends to."""

from __future__ import annotations

import socket
import struct
from typing import Final

from plugengine.kernel.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Request, attr, attr_str, attr_u32, nest
from plugengine.kernel.rtnetlink import (
    IFF_UP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    RTM_NEWLINK,
)

# include/uapi/linux/rtnetlink.h
RTM_NEWNEIGH: Final = 28

# include/uapi/linux/if_link.h
IFLA_VXLAN_ID: Final = 1
IFLA_VXLAN_LEARNING: Final = 7
IFLA_VXLAN_PORT: Final = 15

# include/uapi/linux/neighbour.h
NDA_DST: Final = 1
NDA_LLADDR: Final = 2
NTF_SELF: Final = 0x02  # of the link itself, not of the bridge it is a port of
NUD_PERMANENT: Final = 0x80

_IFINFOMSG: Final = struct.Struct("=BxHiII")
_NDMSG: Final = struct.Struct("=B3xiHBB")  # struct ndmsg: family, interface, state, flags, type
_BE16: Final = struct.Struct("!H")
_EVERYONE: Final = bytes(6)  # what no other entry is for: broadcasts, and addresses nobody knows


def new_vxlan(name: str, *, master: int, mtu: int, vni: int, port: int) -> Request:
    """Make a VXLAN link, up, as a port of a bridge.

    It learns nothing: who sends here does not thereby become somebody that is sent to.
    """
    data = nest(
        IFLA_INFO_DATA,
        attr_u32(IFLA_VXLAN_ID, vni),
        attr(IFLA_VXLAN_PORT, _BE16.pack(port)),
        attr(IFLA_VXLAN_LEARNING, bytes((0,))),
    )
    kind = nest(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "vxlan"), data)
    head = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
    body = head + attr_str(IFLA_IFNAME, name) + attr_u32(IFLA_MTU, mtu) + attr_u32(IFLA_MASTER, master) + kind
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name)


def malformed_vxlan() -> Request:
    """Ask for a VXLAN link in a way that must fail: EOPNOTSUPP where the kernel does not have the kind."""
    broken = nest(IFLA_INFO_DATA, attr(IFLA_VXLAN_ID, b"\0"))
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += nest(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "vxlan"), broken)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, "vxlan")


def send_to(link: int, peer: str) -> Request:
    """Let a VXLAN link send a copy of each frame to one more host; one it sends to already is fine."""
    entry = _NDMSG.pack(socket.AF_BRIDGE, link, NUD_PERMANENT, NTF_SELF, 0)
    body = entry + attr(NDA_LLADDR, _EVERYONE) + attr(NDA_DST, socket.inet_aton(peer))
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND, body, f"peer {peer}")
