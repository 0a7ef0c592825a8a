"""A container's connection: a veth pair, addresses inside, published ports."""

from __future__ import annotations

from contextlib import ExitStack

from plugengine.errors import DriverError, PlugengineError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import format_mac, mac_of, parse_mac
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Prefix
from plugengine.model import Attachment, Interface, NetworkStats

from plugengine_net_bridge import pair
from plugengine_net_bridge.bridge import Plan
from plugengine_net_bridge.names import label, owner, veth_name
from plugengine_net_bridge.pair import Pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, NetworkRequest, Port


def attach(request: NetworkRequest) -> Attachment:
    """Connect a network namespace; see `pe_network_attach`."""
    plan = Plan(request.network)
    wanted = _pair(plan, request)
    wanted_ports = _normalised(request.ports)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host, ExitStack() as undo:
            undo.callback(rtnl.delete, host, wanted.host_name)
            name, nsid = pair.make(host, wanted)
            published = _publish(host, wanted, request.container_id, wanted_ports)
            undo.pop_all()
    except OSError as exc:
        raise DriverError(
            f"connect container {request.container_id} to network {plan.name}: {exc.strerror} ({exc.filename})"
        ) from exc
    interface = Interface(
        name=name,
        mac=format_mac(wanted.mac),
        addresses=(wanted.address.text,),
        mtu=wanted.mtu,
        host_name=wanted.host_name,
    )
    return Attachment(
        interfaces=(interface,),
        gateway=None if plan.internal else plan.gateway.address,
        ports=published,
        record={"bridge": plan.bridge, "veth": wanted.host_name, "nsid": nsid},
    )


def detach(network: Network, container_id: str, attachment: Attachment | None) -> None:
    """Remove the host's end and the published ports; see `pe_network_detach`."""
    problems = []
    if attachment is None or attachment.ports:
        from plugengine_net_bridge import conntrack, ports

        try:
            with NetlinkSocket(NETLINK_NETFILTER) as nf:
                removed = ports.of_owner(nf, owner(container_id, label(network)))
                ports.withdraw(nf, removed)
                # Other protocols notice that their peer is gone; and to look through all connections takes 10 ms.
                for address in {entry.address for entry in removed if entry.port.protocol == "udp"}:
                    conntrack.forget_guest(nf, address)
        except OSError as exc:
            problems.append(exc)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host:
            nsid = None if attachment is None else attachment.record.get("nsid")
            pair.unmake(host, veth_name(container_id, label(network)), nsid)
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
    name = veth_name(container_id, label(network))
    try:
        with NetlinkSocket(NETLINK_ROUTE) as host, NetlinkSocket(NETLINK_NETFILTER) as nf:
            mark = owner(container_id, label(network))
            before = {entry.port for entry in ports.of_owner(nf, mark)}
            published = ports.replace(nf, mark, address, _normalised(wanted))
            _open_ways(host, plan.bridge, name, published)
            if before != set(published):  # else a repair would cut connections that work
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
        link = rtnl.find(host, name)
    if link is None:
        return NetworkStats()
    rx_packets, tx_packets, rx_bytes, tx_bytes = link.stats
    return NetworkStats(rx_bytes=tx_bytes, rx_packets=tx_packets, tx_bytes=rx_bytes, tx_packets=rx_packets)


def _pair(plan: Plan, request: NetworkRequest) -> Pair:
    whose = f"container {request.container_id} on network {plan.name}"
    if request.address is None:
        raise UsageError(f"{whose}: no address")
    try:
        address = Prefix(request.address)
        mac = parse_mac(request.mac or mac_of(address.address))
    except ValueError as exc:
        raise UsageError(f"{whose}: {exc}") from None
    mtu = _own_mtu(plan, whose, request)
    return Pair(plan, request.container_id, netns=request.netns, address=address, mac=mac, mtu=mtu)


def _own_mtu(plan: Plan, whose: str, request: NetworkRequest) -> int:
    """Return the MTU of one connection: its own option, else the network's; the other options are the network's."""
    for option in request.options:
        if option != "mtu" and request.options[option] != request.network.options[option]:
            raise UsageError(f"{whose}: option {option} is for the whole network", hint="a container may choose: mtu")
    return int(request.options.get("mtu", plan.mtu))


def _publish(host: NetlinkSocket, wanted: Pair, container_id: str, wanted_ports: tuple[Port, ...]) -> tuple[Port, ...]:
    if not wanted_ports:
        return ()
    from plugengine_net_bridge import conntrack, ports

    mark = owner(container_id, wanted.plan.label)
    with NetlinkSocket(NETLINK_NETFILTER) as nf:
        published = ports.replace(nf, mark, wanted.address.address, wanted_ports)
        try:
            _open_ways(host, wanted.plan.bridge, wanted.host_name, published)
            conntrack.forget_ports(nf, published)
        except (OSError, PlugengineError):
            ports.withdraw(nf, ports.of_owner(nf, mark))
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
