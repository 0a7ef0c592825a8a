"""A container's connection: a veth pair, addresses inside, published ports."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack

from plugengine.errors import DriverError, PlugengineError, UsageError
from plugengine.kernel.addresses import InterfaceSocket
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from plugengine.model import Attachment, Interface, NetworkStats

from plugengine_net_bridge import rtnl, sysctl
from plugengine_net_bridge.bridge import Plan, find_link
from plugengine_net_bridge.names import container_mark, format_mac, mac_of, owner, parse_mac, veth_name
from plugengine_net_bridge.rtnl import Link, Prefix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, NetworkRequest, Port

_GONE = frozenset((errno.ENODEV,))
_MAX_INTERFACES = 32
_CARRIER_ATTEMPTS = 40
_CARRIER_PAUSE_S = 0.0005


class _Wanted:
    """What one attach is to make; pure."""

    __slots__ = ("address", "container_id", "host_name", "mac", "netns", "network", "plan", "ports")

    def __init__(self, request: NetworkRequest) -> None:
        self.container_id = request.container_id
        self.network = request.network.name
        self.netns = request.netns
        self.plan = Plan(request.network)
        if request.address is None:
            raise UsageError(f"container {request.container_id}: no address on network {self.network}")
        try:
            self.address = Prefix(request.address)
            self.mac = parse_mac(request.mac or mac_of(self.address.address))
        except ValueError as exc:
            raise UsageError(f"container {request.container_id} on network {self.network}: {exc}") from None
        self.host_name = veth_name(request.container_id, self.network)
        self.ports = _normalised(request.ports)


def attach(request: NetworkRequest) -> Attachment:
    """Connect a network namespace; see `pe_network_attach`."""
    wanted = _Wanted(request)
    try:
        with ExitStack() as undo:
            host = undo.enter_context(NetlinkSocket(NETLINK_ROUTE))
            with ExitStack() as made:
                made.callback(_delete_link, host, wanted.host_name)
                name = _make_pair(host, wanted)
                published = _publish(host, wanted)
                made.pop_all()
    except OSError as exc:
        raise DriverError(
            f"connect container {wanted.container_id} to network {wanted.network}: {exc.strerror} ({exc.filename})"
        ) from exc
    interface = Interface(
        name=name,
        mac=format_mac(wanted.mac),
        addresses=(wanted.address.text,),
        mtu=wanted.plan.mtu,
        host_name=wanted.host_name,
    )
    return Attachment(
        interfaces=(interface,),
        gateway=None if wanted.plan.internal else wanted.plan.gateway.address,
        ports=published,
        record={"bridge": wanted.plan.bridge, "veth": wanted.host_name},
    )


def detach(network: Network, container_id: str, attachment: Attachment | None) -> None:
    """Remove the host's end and the published ports; see `pe_network_detach`."""
    problems = []
    if attachment is None or attachment.ports:
        from plugengine_net_bridge import conntrack, ports

        try:
            with NetlinkSocket(NETLINK_NETFILTER) as nf:
                removed = ports.withdraw(nf, owner=owner(container_id, network.name))
                for address in {entry.address for entry in removed}:
                    conntrack.forget_guest(nf, address)
        except OSError as exc:
            problems.append(exc)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host:
            _unmake_pair(host, veth_name(container_id, network.name))
    except OSError as exc:
        problems.append(exc)
    if problems:
        reasons = "; ".join(f"{exc.strerror} ({exc.filename})" for exc in problems)
        raise DriverError(f"disconnect container {container_id} from network {network.name}: {reasons}")


def change_ports(network: Network, container_id: str, attachment: Attachment, wanted: tuple[Port, ...]) -> Attachment:
    """Replace the published ports; see `pe_network_ports`."""
    from plugengine_net_bridge import conntrack, ports

    plan = Plan(network)
    address = Prefix(attachment.interfaces[0].addresses[0]).address
    name = veth_name(container_id, network.name)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host, NetlinkSocket(NETLINK_NETFILTER) as nf:
            published = ports.replace(nf, owner(container_id, network.name), address, _normalised(wanted))
            _open_ways(host, plan.bridge, name, published)
            conntrack.forget_ports(nf, (*attachment.ports, *published))
    except OSError as exc:
        raise DriverError(f"publish ports of container {container_id}: {exc.strerror} ({exc.filename})") from exc
    return Attachment(
        interfaces=attachment.interfaces,
        gateway=attachment.gateway,
        dns=attachment.dns,
        ports=published,
        record=attachment.record,
    )


def stats(attachment: Attachment) -> NetworkStats:
    """Return the counters of the host's end, seen from the other one."""
    name = str(attachment.record.get("veth", ""))
    with NetlinkSocket(NETLINK_ROUTE) as host:
        link = find_link(host, name)
    if link is None:
        return NetworkStats()
    rx_packets, tx_packets, rx_bytes, tx_bytes = link.stats
    return NetworkStats(rx_bytes=tx_bytes, rx_packets=tx_packets, tx_bytes=rx_bytes, tx_packets=rx_packets)


def _make_pair(host: NetlinkSocket, wanted: _Wanted) -> str:
    """Make the pair and set up the container's end; return its name."""
    bridge = find_link(host, wanted.plan.bridge)
    if bridge is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), wanted.plan.bridge)
    with in_namespace(wanted.netns):
        try:
            # Inherited by the interface about to be born.
            sysctl.write(sysctl.accept_ra("default"), "0")
        except FileNotFoundError:
            pass  # a kernel without IPv6
        name = _new_veth(host, wanted, bridge.index)
        inside = InterfaceSocket()
        try:
            inside.up("lo")
            inside.set_address(name, wanted.address.packed, wanted.address.length)
            inside.up(name)
            if not wanted.plan.internal:
                _add_default_route(inside, wanted.plan.gateway.packed)
        finally:
            inside.close()
    _await_carrier(host, wanted)
    return name


def _await_carrier(host: NetlinkSocket, wanted: _Wanted) -> None:
    """Wait until frames pass, mostly not at all.

    The kernel notes a new carrier in a work queue (link_watch.c). A frame sent before is lost, and the first one is an
    ARP request, which is repeated after a second. Since Linux 6.8 to ask for a link is to wait for that note.
    """
    for _ in range(_CARRIER_ATTEMPTS):
        answers = host.execute(rtnl.get_link(wanted.host_name), rtnl.get_link(wanted.plan.bridge))
        if all(Link(answer.replies[0][1]).operstate == rtnl.IF_OPER_UP for answer in answers):
            return
        time.sleep(_CARRIER_PAUSE_S)


def _add_default_route(inside: InterfaceSocket, gateway: bytes) -> None:
    try:
        inside.add_default_route(gateway)
    except FileExistsError:
        return  # the default route of another network, which came first, stays


def _new_veth(host: NetlinkSocket, wanted: _Wanted, bridge_index: int) -> str:
    """Make the pair; return the name inside: eth0, or the next that is free."""
    mark = rtnl.set_alias(wanted.host_name, container_mark(wanted.container_id, wanted.network))
    for number in range(_MAX_INTERFACES):
        name = f"eth{number}"
        pair = rtnl.new_veth(
            wanted.host_name,
            master=bridge_index,
            mtu=wanted.plan.mtu,
            peer=name,
            peer_mac=wanted.mac,
            netns=wanted.netns,
        )
        made, marked = host.exchange([pair, mark])
        if made.error is not None and made.error.errno == errno.EEXIST:
            # Either end may be there: ours from an attach that was interrupted, or another network's eth0.
            _delete_link(host, wanted.host_name)
            made, marked = host.exchange([pair, mark])
        if made.error is None:
            if marked.error is not None:
                raise marked.error
            return name
        if made.error.errno != errno.EEXIST:
            raise made.error
    raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), f"eth0 to eth{_MAX_INTERFACES - 1}")


def _unmake_pair(host: NetlinkSocket, name: str) -> None:
    """Delete the pair; leave it to the kernel where the container's namespace is ending.

    A deletion waits for every processor to pass through the scheduler, several times (netdev_run_todo, rcu_barrier):
    15 to 60 ms. The kernel's own one, when a namespace ends, takes as long, but nobody waits for it.
    """
    link = find_link(host, name)
    if link is None:
        return
    if link.peer_nsid is not None:
        unplugged, alive = host.exchange([rtnl.unplug(name), rtnl.get_namespace(link.peer_nsid)])
        if unplugged.error is None and alive.error is not None and alive.error.errno == errno.ENOENT:
            return
    _delete_link(host, name)


def _publish(host: NetlinkSocket, wanted: _Wanted) -> tuple[Port, ...]:
    if not wanted.ports:
        return ()
    from plugengine_net_bridge import conntrack, ports

    mark = owner(wanted.container_id, wanted.network)
    with NetlinkSocket(NETLINK_NETFILTER) as nf:
        published = ports.replace(nf, mark, wanted.address.address, wanted.ports)
        try:
            _open_ways(host, wanted.plan.bridge, wanted.host_name, published)
            conntrack.forget_ports(nf, published)
        except (OSError, PlugengineError):
            ports.withdraw(nf, owner=mark)
            raise
    return published


def _open_ways(host: NetlinkSocket, bridge: str, name: str, published: tuple[Port, ...]) -> None:
    """Let the host reach published ports at 127.0.0.1, and the container its own."""
    from plugengine_net_bridge import ports

    if ports.uses_loopback(published):
        sysctl.ensure(sysctl.route_localnet(bridge), "1")
    # Where frames on a bridge pass the packet filter (br_netfilter), a rewritten packet is sent on at once, and back
    # to its sender only with hairpin mode.
    host.execute(rtnl.set_hairpin(name, on=bool(published)))


def _normalised(wanted: tuple[Port, ...]) -> tuple[Port, ...]:
    if not wanted:
        return ()
    from plugengine_net_bridge import ports

    return ports.normalised(wanted)


def _delete_link(host: NetlinkSocket, name: str) -> None:
    host.execute(rtnl.delete_link(name), accept=_GONE)
