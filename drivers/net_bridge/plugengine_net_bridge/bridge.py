"""The host's side of a network: a bridge with the gateway's address, forwarding, and the packet filter table."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from plugengine.errors import ConflictError, DriverError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import mac_of, parse_mac
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Link, Prefix

from plugengine_net_bridge import firewall, forwarding, links, table
from plugengine_net_bridge.names import (
    IFNAMSIZ,
    bridge_name,
    label,
    marked_container,
    marked_network,
    network_mark,
    owner_mark,
    split_owner,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, Record

    from plugengine_net_bridge.forwarding import Interfaces

_ATTEMPTS = 50
_HAVE = frozenset((errno.EEXIST,))
_GONE = frozenset((errno.ENODEV,))


class Plan:
    """What a network's host side should be; pure."""

    __slots__ = ("bridge", "gateway", "internal", "label", "mac", "mtu", "name", "note", "subnet")

    def __init__(self, network: Network) -> None:
        self.name = network.name
        self.label = label(network)
        self.bridge = bridge_name(network)
        if not 0 < len(self.bridge) < IFNAMSIZ or set(self.bridge) & set("/: \t\n"):
            raise UsageError(f"network {network.name}: bridge {self.bridge!r} is no name for a link")
        if not network.subnet or not network.gateway:
            raise UsageError(f"network {network.name}: a bridge needs a subnet and a gateway")
        try:
            self.subnet = Prefix(network.subnet)
            self.gateway = Prefix(f"{network.gateway}/{self.subnet.length}")
        except ValueError as exc:
            raise UsageError(f"network {network.name}: {exc}") from None
        if self.gateway.first != self.subnet.first:
            raise UsageError(f"network {network.name}: gateway {network.gateway} is not in {network.subnet}")
        self.mac = parse_mac(mac_of(network.gateway))
        self.mtu = int(network.options["mtu"])
        self.internal = bool(network.options["internal"])
        self.note = table.Note(self.subnet.text, owner_mark(network.owner), self.internal)


def create(network: Network) -> Record:
    """Make, or repair, the bridge and the rules; see `pe_network_create`."""
    plan = Plan(network)
    try:
        with (
            NetlinkSocket(NETLINK_ROUTE) as rtnetlink,
            NetlinkSocket(NETLINK_NETFILTER) as nf,
            ExitStack() as undo,
        ):
            host = forwarding.look(rtnetlink)
            if _ensure_bridge(rtnetlink, plan, host.find(plan.bridge)):
                undo.callback(_unmake, plan.bridge, plan.subnet.text)
                host = forwarding.look(rtnetlink)
            host = _ensure_rules(nf, rtnetlink, plan, host)
            firewall.let_pass(nf, plan.bridge)
            if not plan.internal:
                forwarding.turn_on(host, plan.bridge)
            undo.pop_all()
    except OSError as exc:
        raise _failed(plan, exc) from exc
    return {"bridge": plan.bridge, "subnet": plan.subnet.text, "mtu": plan.mtu, "internal": plan.internal}


def remove(network: Network, record: Record | None) -> None:
    """Remove the rules and the bridge; see `pe_network_remove`."""
    bridge = str((record or {}).get("bridge") or bridge_name(network))
    try:
        with NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
            link = rtnl.find(rtnetlink, bridge)
            if link is not None and marked_network(link) != label(network):
                return  # never ours: another engine's, or someone else's
            _unmake(bridge, network.subnet)
    except OSError as exc:
        raise DriverError(f"remove network {network.name}: {exc.strerror} ({exc.filename})") from exc


def _ensure_bridge(rtnetlink: NetlinkSocket, plan: Plan, link: Link | None) -> bool:
    """Make the bridge what it should be; return whether it had to be made."""
    link = link or rtnl.find(rtnetlink, plan.bridge)
    if link is not None and _is_left_over(rtnetlink, link, plan):
        rtnl.delete(rtnetlink, plan.bridge)
        link = None
    if made := link is None:
        # In one send: whoever is killed here leaves a bridge with a mark, or none.
        rtnetlink.execute(
            rtnl.new_bridge(plan.bridge, mac=plan.mac, mtu=plan.mtu),
            rtnl.set_alias(plan.bridge, network_mark(plan.label)),
            accept=_HAVE,
        )
        link = rtnl.find(rtnetlink, plan.bridge)
        if link is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), plan.bridge)
    _check_ours(link, plan)
    requests = []
    if link.mtu != plan.mtu:
        requests.append(rtnl.set_mtu(plan.bridge, plan.mtu))
    requests.append(rtnl.new_address(link.index, plan.gateway, plan.bridge))
    if link.ipv6:
        # It is for IPv4 only: containers would reach what the host serves on [::] past all rules for IPv4.
        sysctl.write(sysctl.accept_ra(plan.bridge), "0")
        sysctl.write(sysctl.disable_ipv6(plan.bridge), "1")
    if not link.up:
        requests.append(rtnl.link_up(plan.bridge))
    rtnetlink.execute(*requests, accept=_HAVE)
    if made:
        _bring_back_ports(rtnetlink, plan, link.index)
    return made


def _ensure_rules(nf: NetlinkSocket, rtnetlink: NetlinkSocket, plan: Plan, host: Interfaces) -> Interfaces:
    """Make the table what it should be; return what the interfaces are once it is."""
    for _ in range(_ATTEMPTS):
        if not table.ensure(nf, plan.bridge, plan.note, host.guard(opening=not plan.internal)):
            return host
        host = forwarding.look(rtnetlink)
    raise OSError(errno.EBUSY, "rules or interfaces change faster than they can be read", f"table {table.TABLE}")


def _is_left_over(rtnetlink: NetlinkSocket, link: Link, plan: Plan) -> bool:
    """Tell whether a bridge is of a network of the same name that had another subnet, and nobody uses it."""
    whose = marked_network(link)
    if whose is None or whose == plan.label:
        return False
    words, own = whose.split(), plan.label.split()
    if (words[0], words[-1]) != (own[0], own[-1]):
        return False
    return not links.in_use(rtnetlink, link, rtnl.find_all(rtnetlink))


def _check_ours(link: Link, plan: Plan) -> None:
    whose = marked_network(link)
    # The alias comes a moment after the link; for one that is being made the hardware address tells.
    if link.kind == "bridge" and (whose == plan.label or (not link.alias and link.mac == plan.mac)):
        return
    raise ConflictError(
        f"network {plan.name}: link {plan.bridge} belongs to " + (f"network {whose}" if whose else "someone else"),
        hint="choose another with the network's option bridge=NAME",
    )


def _bring_back_ports(rtnetlink: NetlinkSocket, plan: Plan, index: int) -> None:
    """Put the containers that are running back into a bridge someone had deleted."""
    for link in rtnl.find_all(rtnetlink):
        mark = marked_container(link.alias)
        if mark is not None and split_owner(mark)[1] == plan.label:
            rtnetlink.execute(rtnl.set_master(link.name, index), accept=_GONE)


def _unmake(bridge: str, subnet: str | None) -> None:
    with NetlinkSocket(NETLINK_NETFILTER) as nf, NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
        firewall.withdraw(nf, bridge)
        table.forget(nf, bridge, subnet)
        rtnl.delete(rtnetlink, bridge)
        forwarding.give_back(nf, rtnetlink)


def _failed(plan: Plan, exc: OSError) -> DriverError | ConflictError:
    if exc.errno == errno.EEXIST and str(exc.filename).endswith(f" {table.SUBNETS}"):
        return ConflictError(
            f"network {plan.name}: subnet {plan.subnet.text} overlaps that of another bridge network",
            hint="choose another subnet",
        )
    hint = "run as root, with /proc/sys writable" if exc.errno in (errno.EPERM, errno.EACCES, errno.EROFS) else None
    return DriverError(f"make network {plan.name}: {exc.strerror} ({exc.filename})", hint=hint)
