"""The veth pair between a bridge and a container: made, found and removed."""

from __future__ import annotations

import errno
import os
import time

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NetlinkSocket
from plugengine.kernel.rtnetlink import Link, Prefix

from plugengine_net_bridge import links
from plugengine_net_bridge.bridge import Plan
from plugengine_net_bridge.names import container_mark, veth_name

_GONE = frozenset((errno.ENODEV,))
_MAX_INTERFACES = 32
_CARRIER_ATTEMPTS = 40
_CARRIER_PAUSE_S = 0.0005
_ENDING = "peend%d"  # the host's end of a pair whose other end goes with its namespace


class Pair:
    """What a pair is to be; pure."""

    __slots__ = ("address", "host_name", "mac", "mark", "mtu", "netns", "plan")

    def __init__(self, plan: Plan, container_id: str, *, netns: int, address: Prefix, mac: bytes, mtu: int) -> None:
        self.plan = plan
        self.host_name = veth_name(container_id, plan.label)
        self.mark = container_mark(container_id, plan.label)
        self.netns = netns
        self.address = address
        self.mac = mac
        self.mtu = mtu


def make(host: NetlinkSocket, pair: Pair) -> tuple[str, int | None]:
    """Make the pair and set up the container's end.

    Returns:
        The name inside, and the number this namespace has for the container's.
    """
    bridge = rtnl.find(host, pair.plan.bridge)
    if bridge is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), pair.plan.bridge)
    with in_namespace(pair.netns):
        with sysctl.born_without_ipv6():
            name = _new_veth(host, pair, bridge.index)
        inside = InterfaceSocket()
        try:
            inside.up("lo")
            inside.set_address(name, pair.address.packed, pair.address.length)
            inside.up(name)
            if not pair.plan.internal:
                _add_default_route(inside, pair.plan.gateway.packed)
        finally:
            inside.close()
    return name, _await_carrier(host, pair)


def unmake(host: NetlinkSocket, name: str, nsid: int | None) -> None:
    """Remove a pair by its host's end; leave it to the kernel where the container's namespace is ending.

    To delete a link is to wait for every processor to pass through the scheduler, several times (netdev_run_todo,
    rcu_barrier): 15 to 60 ms. The kernel's own deletion, when a namespace ends, takes as long, but nobody waits for
    it, unless they ask about links meanwhile: so the first question is one that needs no lock of theirs.
    """
    if links.is_ending(host, nsid):
        return
    link = rtnl.find(host, name)
    if link is not None and not links.is_ending(host, link.peer_nsid):
        rtnl.delete(host, name)


def _new_veth(host: NetlinkSocket, pair: Pair, bridge_index: int) -> str:
    """Make the pair; return the name inside: eth0, or the next that is free."""
    for number in range(_MAX_INTERFACES):
        name = f"eth{number}"
        # In one send: whoever is killed here leaves a link with a mark, or none.
        requests = (
            rtnl.new_veth(
                pair.host_name,
                master=bridge_index,
                mtu=pair.mtu,
                peer=name,
                peer_mac=pair.mac,
                netns=pair.netns,
            ),
            rtnl.set_alias(pair.host_name, pair.mark),
        )
        made, marked = host.exchange(requests)
        if made.error is not None and made.error.errno == errno.EEXIST and _make_way(host, pair):
            made, marked = host.exchange(requests)
        if made.error is None:
            if marked.error is not None:
                raise marked.error
            return name
        if made.error.errno != errno.EEXIST:
            raise made.error
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), f"eth0 to eth{_MAX_INTERFACES - 1}")


def _make_way(host: NetlinkSocket, pair: Pair) -> bool:
    """Remove the end of an earlier pair of this container; return whether there was one."""
    link = rtnl.find(host, pair.host_name)
    if link is None:
        return False
    if link.alias and link.alias != pair.mark:
        raise OSError(errno.EEXIST, f"belongs to: {link.alias}", pair.host_name)
    if links.is_ending(host, link.peer_nsid):
        # A restart: the name is all that is wanted.
        answers = host.exchange([rtnl.unplug(link.name), rtnl.rename(link.index, _ENDING)])
        if all(answer.error is None or answer.error.errno in _GONE for answer in answers):
            return True
    rtnl.delete(host, pair.host_name)
    return True


def _await_carrier(host: NetlinkSocket, pair: Pair) -> int | None:
    """Wait until frames pass, mostly not at all; return the number of the other end's namespace.

    The kernel notes a new carrier in a work queue (link_watch.c). A frame sent before is lost, and the first one is an
    ARP request, which is repeated after a second. Since Linux 6.8 to ask for a link is to wait for that note.
    """
    nsid = None
    for _ in range(_CARRIER_ATTEMPTS):
        answers = host.execute(rtnl.get_link(pair.host_name), rtnl.get_link(pair.plan.bridge))
        ends = [Link(answer.replies[0][1]) for answer in answers]
        nsid = ends[0].peer_nsid
        if all(link.operstate == rtnl.IF_OPER_UP for link in ends):
            break
        time.sleep(_CARRIER_PAUSE_S)
    return nsid


def _add_default_route(inside: InterfaceSocket, gateway: bytes) -> None:
    try:
        inside.add_default_route(gateway)
    except FileExistsError:
        return  # the default route of another network, which came first, stays
