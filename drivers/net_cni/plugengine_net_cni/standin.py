"""A namespace that looks like one that is gone, for plugins that clean up by what they find in it.

The plugins bridge and ptp remove their masquerading rules for the addresses they see on the container's interface. With
an empty CNI_NETNS, which is what the specification says when the namespace is gone, those rules stay for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from plugengine.kernel import netns
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.addresses import parse_mac
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket

from plugengine_net_cni.chain import Connection

_MASQUERADE = "ipMasq"  # the option of every plugin that does so
_PEER = "gone"
_MAC = bytes.fromhex("020000000001")
_MTU = 1500


@contextmanager
def places(connection: Connection) -> Iterator[dict[int, str]]:
    """Yield the path of a namespace for each plugin that needs one, by its place in the list."""
    needy = [place for place, plugin in enumerate(connection.network.plugins) if plugin.get(_MASQUERADE)]
    if not needy or connection.result is None:
        yield {}
        return
    fd = netns.make()
    try:
        _set_up(fd, connection.ifname, connection.result)
        yield dict.fromkeys(needy, path_of(fd))
    finally:
        os.close(fd)


def path_of(fd: int) -> str:
    """Return a path that leads every process of the host to a descriptor of ours, as long as we hold it.

    /proc/self/fd would lead only the plugin, if the descriptor were inherited; not what the plugin asks for help, such
    as the daemon of the plugin dhcp. A mount would have to be visible outside of our mount namespace, and be found and
    undone after a crash.
    """
    return f"/proc/{os.getpid()}/fd/{fd}"


def _set_up(fd: int, ifname: str, result: Mapping[str, Any]) -> None:
    """Make an interface of that name with the addresses of a result; IPv4 only."""
    mac = next((each["mac"] for each in result.get("interfaces") or [] if each.get("sandbox") and each.get("mac")), "")
    with in_namespace(fd), NetlinkSocket(NETLINK_ROUTE) as inside:
        address = parse_mac(mac) if mac else _MAC
        inside.execute(rtnl.new_veth(_PEER, master=0, mtu=_MTU, peer=ifname, peer_mac=address, netns=fd))
        link = rtnl.find(inside, ifname)
        for ip in result.get("ips") or []:
            if link is not None and ":" not in ip["address"]:
                inside.execute(rtnl.new_address(link.index, rtnl.Prefix(ip["address"]), ifname))
