"""Network driver `vxlan`: containers of several hosts on one network, through tunnels between the hosts (RFC 7348).

Each network is a bridge on each host, with a VXLAN link as one of its ports and a pair of links for each container.
What is sent to another host goes in a UDP datagram to every peer. Everything on the host carries a mark (`ip link`
shows it as alias), so that what a crash left behind is found again.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterable
from typing import Final

from plugengine.errors import ConflictError, DriverError, NotSupportedError, UsageError
from plugengine.hookspecs import API_VERSION, hookimpl
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import InterfaceSocket, format_mac, mac_of, parse_mac
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Link, Prefix
from plugengine.model import (
    Attachment,
    Capability,
    DriverInfo,
    Host,
    Interface,
    Network,
    NetworkRequest,
    NetworkStats,
    Record,
)
from plugengine_vxlan import messages
from plugengine_vxlan.settings import OPTIONS, Settings

_GUEST: Final = "eth0"
_HAVE: Final = frozenset((errno.EEXIST,))
_BRIDGE_MARK: Final = "vxlan network "
_TUNNEL_MARK: Final = "vxlan tunnel "
_PAIR_MARK: Final = "vxlan container "

_INFO: Final = DriverInfo(
    api_version=API_VERSION,
    summary="containers of several hosts on one network, by VXLAN",
    capabilities=frozenset((Capability.ADDRESSES,)),
    options=OPTIONS,
)


@hookimpl
def pe_network_info() -> DriverInfo:
    """Return facts about the driver."""
    return _INFO


@hookimpl
def pe_network_probe(host: Host) -> Iterable[str]:
    """Return why this host cannot run it."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for kind, request in (("bridge", rtnl.malformed_link("bridge")), ("vxlan", messages.malformed_vxlan())):
            try:
                netlink.execute(request)
            except OSError as exc:
                if exc.errno == errno.EPERM:
                    return ("links cannot be made: run as root",)
                if exc.errno == errno.EOPNOTSUPP:
                    return (f"this kernel has no links of kind {kind}: load the module {kind}",)
    return ()


@hookimpl
def pe_network_create(network: Network) -> Record:
    """Make the bridge and the tunnel, or mend them: this is called before every attach."""
    if not network.subnet or not network.gateway:
        raise UsageError(f"network {network.name}: needs a subnet")
    settings = Settings.of(network.name, network.options)
    name = _name("vxb", network.name)
    try:
        with NetlinkSocket(NETLINK_ROUTE) as netlink:
            bridge = rtnl.find(netlink, name)
            if bridge is None:
                mac, mtu = parse_mac(mac_of(network.gateway)), settings.best_mtu()
                # In one send: whoever is killed here leaves a bridge with a mark, or none.
                new = rtnl.new_bridge(name, mac=mac, mtu=mtu)
                netlink.execute(new, rtnl.set_alias(name, _BRIDGE_MARK + network.name), accept=_HAVE)
                bridge = rtnl.find(netlink, name)
            if bridge is None or bridge.alias != _BRIDGE_MARK + network.name:
                raise ConflictError(f"network {network.name}: link {name} belongs to someone else")
            if bridge.ipv6:  # containers would reach what the host serves on [::] by its link-local address
                sysctl.write(sysctl.disable_ipv6(name), "1")
            if not bridge.up:
                netlink.execute(rtnl.link_up(name))
            _make_tunnel(netlink, network, settings, bridge)
    except OSError as exc:
        raise DriverError(f"make network {network.name}: {exc.filename}: {exc.strerror}") from exc
    return {"bridge": name}


@hookimpl
def pe_network_remove(network: Network, record: Record) -> None:
    """Remove the tunnel and the bridge; what is gone is fine."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for kind in ("vxt", "vxb"):
            rtnl.delete(netlink, _name(kind, network.name))


@hookimpl
def pe_network_attach(request: NetworkRequest) -> Attachment:
    """Make the pair of links, and set up the container's end; or leave nothing behind."""
    what = f"connect container {request.container_id} to network {request.network.name}"
    if request.ports:
        raise NotSupportedError(f"{what}: network driver vxlan publishes no ports")
    if not request.address:
        raise UsageError(f"{what}: no address")
    try:
        address = Prefix(request.address)
        mac = parse_mac(request.mac or mac_of(address.address))
    except ValueError as exc:
        raise UsageError(f"{what}: {exc}") from exc
    host_end = _name("vxc", request.container_id, request.network.name)
    mark = f"{_PAIR_MARK}{request.container_id} {request.network.name}"
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            bridge = rtnl.find(netlink, str(request.network_record["bridge"]))
            if bridge is None:
                raise DriverError(f"{what}: its bridge is gone")
            rtnl.delete(netlink, host_end)  # of an attach that was interrupted
            pair = rtnl.new_veth(
                host_end, master=bridge.index, mtu=bridge.mtu, peer=_GUEST, peer_mac=mac, netns=request.netns
            )
            with in_namespace(request.netns), sysctl.born_without_ipv6():
                netlink.execute(pair, rtnl.set_alias(host_end, mark))
            _set_up(request.netns, address)
        except OSError as exc:
            rtnl.delete(netlink, host_end)
            raise DriverError(f"{what}: {exc.strerror} ({exc.filename})") from exc
    guest = Interface(
        name=_GUEST, mac=format_mac(mac), addresses=(request.address,), mtu=bridge.mtu, host_name=host_end
    )
    return Attachment(interfaces=(guest,), record={"link": host_end})


@hookimpl
def pe_network_detach(network: Network, container_id: str, attachment: Attachment | None) -> None:
    """Remove the pair by the host's end, which also takes the container's; one that is gone is fine."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        rtnl.delete(netlink, _name("vxc", container_id, network.name))


@hookimpl
def pe_network_stats(attachment: Attachment, netns: int) -> NetworkStats:
    """Return the counters of the host's end, turned round."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        link = rtnl.find(netlink, str(attachment.record["link"]))
    rx_packets, tx_packets, rx_bytes, tx_bytes = link.stats if link else (0, 0, 0, 0)
    return NetworkStats(rx_bytes=tx_bytes, rx_packets=tx_packets, tx_bytes=rx_bytes, tx_packets=rx_packets)


@hookimpl
def pe_network_gc(host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Iterable[str]:
    """Remove marked links of no container on our networks, and of no network whose bridge no container uses."""
    ours = {network.name for network in networks}
    removed = []
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        for link in rtnl.find_all(netlink):
            container, _, network = link.alias.removeprefix(_PAIR_MARK).partition(" ")
            if link.alias.startswith(_PAIR_MARK) and network in ours and container not in valid_ids:
                rtnl.delete(netlink, link.name)
                removed.append(f"link {link.name} of container {container}")
        links = rtnl.find_all(netlink)
        used = {link.master for link in links if not link.alias.startswith(_TUNNEL_MARK)}
        for link in links:
            for mark, bridge in ((_TUNNEL_MARK, link.master), (_BRIDGE_MARK, link.index)):
                network = link.alias.removeprefix(mark)
                if link.alias.startswith(mark) and network not in ours and (not bridge or bridge not in used):
                    rtnl.delete(netlink, link.name)
                    removed.append(f"{mark.split()[1]} {link.name} of network {network}")
    return removed


def _make_tunnel(netlink: NetlinkSocket, network: Network, settings: Settings, bridge: Link) -> None:
    name, mark = _name("vxt", network.name), _TUNNEL_MARK + network.name
    tunnel = rtnl.find(netlink, name)
    if tunnel is not None and tunnel.master != bridge.index:  # its bridge was deleted
        rtnl.delete(netlink, name)
        tunnel = None
    if tunnel is None:
        new = messages.new_vxlan(name, master=bridge.index, mtu=bridge.mtu, vni=settings.vni, port=settings.port)
        netlink.execute(new, rtnl.set_alias(name, mark), accept=_HAVE | {errno.ENODEV})
        tunnel = rtnl.find(netlink, name)
        if tunnel is None:
            raise ConflictError(
                f"network {network.name}: there is a VXLAN link of number {settings.vni} at port {settings.port}",
                hint="choose another number: -o vni=NUMBER, the same on every host",
            )
    if tunnel.alias != mark:
        raise ConflictError(f"network {network.name}: link {name} belongs to someone else")
    if settings.peers:
        netlink.execute(*(messages.send_to(tunnel.index, peer) for peer in settings.peers))


def _set_up(netns: int, address: Prefix) -> None:
    with in_namespace(netns):
        inside = InterfaceSocket()
        try:
            inside.up("lo")
            inside.set_address(_GUEST, address.packed, address.length)
            inside.up(_GUEST)
        finally:
            inside.close()


def _name(kind: str, *owner: str) -> str:
    """Return a name for a link, of 11 characters, by which it can be found again."""
    return f"{kind}{zlib.crc32(' '.join(owner).encode()):08x}"
