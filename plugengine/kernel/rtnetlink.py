"""Requests and replies of rtnetlink(7) that networks need, and finding and deleting links with them."""

from __future__ import annotations

import errno
import socket
import struct

from plugengine.kernel import netlink
from plugengine.kernel.netlink import NetlinkSocket, Request, attr, attr_str, attr_u32, attributes, nest

# include/uapi/linux/rtnetlink.h
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETNSID = 90
RT_SCOPE_UNIVERSE = 0

# include/uapi/linux/if_link.h
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_OPERSTATE = 16
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_STATS64 = 23
IFLA_AF_SPEC = 26
IFLA_NET_NS_FD = 28
IFLA_EXT_MASK = 29
IFLA_LINK_NETNSID = 37
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_MODE = 4
IFLA_BR_FORWARD_DELAY = 1
IFLA_VLAN_ID = 1
IFLA_VXLAN_ID = 1
IFLA_MACVLAN_MODE = 1
MACVLAN_MODE_PRIVATE = 1
MACVLAN_MODE_VEPA = 2
MACVLAN_MODE_BRIDGE = 4
MACVLAN_MODE_PASSTHRU = 8

IFLA_INET_CONF = 1
IFLA_INET6_CONF = 2
RTEXT_FILTER_SKIP_STATS = 1 << 3
NO_MASTER = 0xFFFFFFFF

# include/uapi/linux/ip.h
IPV4_DEVCONF_FORWARDING = 1

# include/uapi/linux/ipv6.h
DEVCONF_DISABLE_IPV6 = 26

# Kinds of links, IFLA_INFO_KIND
KIND_BRIDGE = "bridge"

# include/uapi/linux/veth.h
VETH_INFO_PEER = 1

# include/uapi/linux/if_addr.h
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4

# include/uapi/linux/if.h
IFF_UP = 1
IF_OPER_UP = 6

# include/uapi/linux/net_namespace.h
NETNSA_NSID = 1

# An attribute of each kind that is longer than a byte.
_FIRST_OF_KIND = {
    "bridge": IFLA_BR_FORWARD_DELAY,
    "macvlan": IFLA_MACVLAN_MODE,
    "veth": VETH_INFO_PEER,
    "vlan": IFLA_VLAN_ID,
    "vxlan": IFLA_VXLAN_ID,
}

_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_STATS64 = struct.Struct("=QQQQ")  # struct rtnl_link_stats64 begins: rx, tx packets, rx, tx bytes
_S32 = struct.Struct("=i")
_U32 = struct.Struct("=I")
_BE32 = struct.Struct("!I")
_U16 = struct.Struct("=H")
_BITS = 32
_GONE = frozenset((errno.ENODEV,))


class Link:
    """What the kernel says of one link."""

    __slots__ = (
        "_families",
        "alias",
        "flags",
        "index",
        "kind",
        "mac",
        "master",
        "mtu",
        "name",
        "operstate",
        "peer_nsid",
        "stats",
    )

    def __init__(self, body: bytes) -> None:
        self.index: int
        self.flags: int
        _, _, self.index, self.flags, _ = _IFINFOMSG.unpack_from(body)
        found = dict(attributes(body, _IFINFOMSG.size))
        self.name: str = _text(found.get(IFLA_IFNAME, b""))
        self.alias: str = _text(found.get(IFLA_IFALIAS, b""))
        self.mac: bytes = found.get(IFLA_ADDRESS, b"")
        self.master: int = _U32.unpack(found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0
        self.mtu: int = _U32.unpack(found[IFLA_MTU])[0] if IFLA_MTU in found else 0
        self.kind: str = _text(dict(attributes(found.get(IFLA_LINKINFO, b""))).get(IFLA_INFO_KIND, b""))
        # RFC 2863; IF_OPER_UP: frames pass
        self.operstate: int = found.get(IFLA_OPERSTATE, b"\0")[0]
        # The number this namespace has for the one the other end is in.
        nsid = found.get(IFLA_LINK_NETNSID)
        self.peer_nsid: int | None = None if nsid is None else _S32.unpack(nsid)[0]
        stats = found.get(IFLA_STATS64, b"")
        # rx_packets, tx_packets, rx_bytes, tx_bytes as the host sees them
        self.stats: tuple[int, int, int, int] = _STATS64.unpack_from(stats) if stats else (0, 0, 0, 0)
        self._families: bytes = found.get(IFLA_AF_SPEC, b"")

    @property
    def up(self) -> bool:
        """Whether it was raised by someone."""
        return bool(self.flags & IFF_UP)

    @property
    def forwarding(self) -> int | None:
        """The setting net.ipv4.conf.NAME.forwarding; None: it takes no IPv4 packets."""
        # An array that begins with the first setting, which has the number 1.
        return self._setting(socket.AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_FORWARDING - 1)

    @property
    def ipv6(self) -> bool:
        """Whether it takes IPv6 packets."""
        return self._setting(socket.AF_INET6, IFLA_INET6_CONF, DEVCONF_DISABLE_IPV6) == 0

    def _setting(self, family: int, array: int, number: int) -> int | None:
        settings = dict(attributes(dict(attributes(self._families)).get(family, b""))).get(array)
        if settings is None:
            return None
        value: int = _S32.unpack_from(settings, number * _S32.size)[0]
        return value


class Prefix:
    """An IPv4 address with the length of its network, `10.88.0.2/16`.

    The ipaddress module is no help here: to import it takes longer than to attach a container.
    """

    __slots__ = ("address", "first", "last", "length", "packed", "text")

    def __init__(self, text: str) -> None:
        address, slash, length = text.partition("/")
        try:
            self.packed: bytes = socket.inet_pton(socket.AF_INET, address)
        except OSError:
            raise ValueError(f"{text!r}: not an IPv4 address with a prefix length") from None
        self.length: int = int(length) if slash and length.isdecimal() else -1
        if not 0 <= self.length <= _BITS:
            raise ValueError(f"{text!r}: not an IPv4 address with a prefix length")
        self.text: str = text
        self.address: str = address
        host_bits = (1 << (_BITS - self.length)) - 1
        self.first: int = _BE32.unpack(self.packed)[0] & ~host_bits
        self.last: int = self.first | host_bits


def get_link(name: str) -> Request:
    """Ask for one link by name."""
    return Request(RTM_GETLINK, 0, _link(attr_str(IFLA_IFNAME, name)), name)


def all_links() -> Request:
    """Ask for every link of the namespace."""
    return Request(RTM_GETLINK, netlink.NLM_F_DUMP, _link(), "links")


def links_without_master() -> Request:
    """Ask for every link that is no port of another; kernels before 5.16 have none to tell."""
    body = _link(attr_u32(IFLA_MASTER, NO_MASTER), attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))
    return Request(RTM_GETLINK, netlink.NLM_F_DUMP, body, "links")


def delete_link(name: str) -> Request:
    """Delete one link by name; a veth goes with its peer."""
    return Request(RTM_DELLINK, 0, _link(attr_str(IFLA_IFNAME, name)), name)


def new_bridge(name: str, *, mac: bytes, mtu: int) -> Request:
    """Make a bridge, down; a MAC of its own keeps it from taking its lowest port's, which would change."""
    kind = nest(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, "bridge"))
    body = _link(attr_str(IFLA_IFNAME, name), attr(IFLA_ADDRESS, mac), attr_u32(IFLA_MTU, mtu), kind)
    return Request(RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, name)


def new_veth(name: str, *, master: int, mtu: int, peer: str, peer_mac: bytes, netns: int) -> Request:
    """Make a pair: the host's end up and in its bridge, the other born in the container's namespace."""
    inside = _link(
        attr_str(IFLA_IFNAME, peer),
        attr(IFLA_ADDRESS, peer_mac),
        attr_u32(IFLA_MTU, mtu),
        attr_u32(IFLA_NET_NS_FD, netns),
    )
    kind = nest(
        IFLA_LINKINFO,
        attr_str(IFLA_INFO_KIND, "veth"),
        nest(IFLA_INFO_DATA, attr(VETH_INFO_PEER, inside)),
    )
    body = _link(attr_str(IFLA_IFNAME, name), attr_u32(IFLA_MASTER, master), attr_u32(IFLA_MTU, mtu), kind, up=True)
    return Request(RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, name)


def new_macvlan(name: str, *, parent: int, mode: int, mac: bytes, mtu: int | None, netns: int) -> Request:
    """Make an interface with a hardware address of its own on another link, born in the container's namespace.

    Args:
        name: Inside.
        parent: Index of the link in this namespace.
        mode: MACVLAN_MODE_*.
        mac: Its hardware address.
        mtu: Its largest packet; None: the parent's.
        netns: Open descriptor of the namespace.
    """
    kind = nest(
        IFLA_LINKINFO,
        attr_str(IFLA_INFO_KIND, "macvlan"),
        nest(IFLA_INFO_DATA, attr_u32(IFLA_MACVLAN_MODE, mode)),
    )
    size = b"" if mtu is None else attr_u32(IFLA_MTU, mtu)
    address = attr(IFLA_ADDRESS, mac)
    where = attr_u32(IFLA_LINK, parent) + attr_u32(IFLA_NET_NS_FD, netns)
    body = _link(attr_str(IFLA_IFNAME, name), address, size, where, kind)
    return Request(RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, name)


def new_vlan(name: str, *, parent: int, number: int) -> Request:
    """Make the interface of one VLAN of a link, up."""
    kind = nest(
        IFLA_LINKINFO,
        attr_str(IFLA_INFO_KIND, "vlan"),
        nest(IFLA_INFO_DATA, attr(IFLA_VLAN_ID, _U16.pack(number))),
    )
    body = _link(attr_str(IFLA_IFNAME, name), attr_u32(IFLA_LINK, parent), kind, up=True)
    return Request(RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, name)


def set_alias(name: str, alias: str) -> Request:
    """Write the alias of a link."""
    body = _link(attr_str(IFLA_IFNAME, name), attr(IFLA_IFALIAS, alias.encode()))
    return Request(RTM_NEWLINK, 0, body, name)


def set_master(name: str, master: int) -> Request:
    """Put a link into a bridge."""
    return Request(RTM_NEWLINK, 0, _link(attr_str(IFLA_IFNAME, name), attr_u32(IFLA_MASTER, master)), name)


def set_mtu(name: str, mtu: int) -> Request:
    """Set the largest packet of a link."""
    return Request(RTM_NEWLINK, 0, _link(attr_str(IFLA_IFNAME, name), attr_u32(IFLA_MTU, mtu)), name)


def set_hairpin(name: str, *, on: bool) -> Request:
    """Let a bridge send frames back through the port they came from, or not."""
    port = nest(
        IFLA_LINKINFO,
        attr_str(IFLA_INFO_SLAVE_KIND, "bridge"),
        nest(IFLA_INFO_SLAVE_DATA, attr(IFLA_BRPORT_MODE, bytes((on,)))),
    )
    return Request(RTM_NEWLINK, 0, _link(attr_str(IFLA_IFNAME, name), port), name)


def unplug(name: str) -> Request:
    """Take a link out of its bridge and down."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, IFF_UP)
    return Request(RTM_NEWLINK, 0, body + attr_str(IFLA_IFNAME, name) + attr_u32(IFLA_MASTER, 0), name)


def rename(index: int, name: str) -> Request:
    """Give a link that is down another name; the kernel puts a free number in for %d."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attr_str(IFLA_IFNAME, name)
    return Request(RTM_NEWLINK, 0, body, name)


def get_namespace(nsid: int) -> Request:
    """Ask for a namespace by its number; ENOENT: it is gone, or about to go with all its links."""
    family = bytes(4)  # struct rtgenmsg, padded
    return Request(RTM_GETNSID, 0, family + attr(NETNSA_NSID, _S32.pack(nsid)), "network namespace")


def link_up(name: str) -> Request:
    """Raise a link by name."""
    return Request(RTM_NEWLINK, 0, _link(attr_str(IFLA_IFNAME, name), up=True), name)


def new_address(index: int, prefix: Prefix, about: str) -> Request:
    """Give a link an address; EEXIST: it has it."""
    body = b"".join(
        (
            _IFADDRMSG.pack(socket.AF_INET, prefix.length, 0, RT_SCOPE_UNIVERSE, index),
            attr(IFA_LOCAL, prefix.packed),
            attr(IFA_ADDRESS, prefix.packed),
            attr(IFA_BROADCAST, _BE32.pack(prefix.last)),
        )
    )
    return Request(RTM_NEWADDR, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, f"{prefix.text} on {about}")


def malformed_link(kind: str) -> Request:
    """Ask for a link of a kind in a way that must fail: EOPNOTSUPP where the kernel does not have the kind.

    The kernel finds (and loads) the kind before it looks at the attributes of the kind, one of which is too short.
    """
    broken = attr(_FIRST_OF_KIND[kind], b"\0")
    body = _link(nest(IFLA_LINKINFO, attr_str(IFLA_INFO_KIND, kind), nest(IFLA_INFO_DATA, broken)))
    return Request(RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body, kind)


def find(rtnetlink: NetlinkSocket, name: str) -> Link | None:
    """Return one link by name; None: there is none."""
    (answer,) = rtnetlink.execute(get_link(name), accept=_GONE)
    return Link(answer.replies[0][1]) if answer.replies else None


def find_all(rtnetlink: NetlinkSocket) -> list[Link]:
    """Return every link."""
    return [Link(body) for kind, body in rtnetlink.get(all_links()) if kind == RTM_NEWLINK]


def find_without_master(rtnetlink: NetlinkSocket) -> list[Link]:
    """Return every link that is no port of a bridge, a bond or the like: those packets are routed by, and loopback."""
    found = [Link(body) for kind, body in rtnetlink.get(links_without_master()) if kind == RTM_NEWLINK]
    return found or [link for link in find_all(rtnetlink) if not link.master]


def delete(rtnetlink: NetlinkSocket, name: str) -> None:
    """Delete a link; one that is not there counts as deleted."""
    rtnetlink.execute(delete_link(name), accept=_GONE)


def _link(*parts: bytes, up: bool = False) -> bytes:
    flags = IFF_UP if up else 0
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, flags, flags) + b"".join(parts)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
