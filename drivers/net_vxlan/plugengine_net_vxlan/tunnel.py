"""The host's side of a network, made and removed: a bridge, and a VXLAN link as its port that sends to every peer."""

from __future__ import annotations

import errno

from plugengine.errors import ConflictError
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import mac_of
from pyroute2 import IPRoute

from plugengine_net_vxlan import links, names
from plugengine_net_vxlan.links import Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network

    from plugengine_net_vxlan.settings import Settings

_EVERYONE = "00:00:00:00:00:00"  # what no other entry is for: broadcasts, and addresses nobody knows


def make(network: Network, settings: Settings) -> None:
    """Make what is missing; the tunnel comes up last, so that one that is up is complete."""
    with IPRoute() as ip:
        bridge = _ensure_bridge(ip, network, settings)
        tunnel = _ensure_tunnel(ip, network, settings, bridge)
        _send_to(ip, tunnel, settings.peers)
        links.raise_up(ip, tunnel)


def remove(network: Network) -> None:
    """Remove the tunnel and the bridge; what is gone is fine."""
    with IPRoute() as ip:
        for name in (names.tunnel_name(network), names.bridge_name(network)):
            links.delete(ip, name)


def _ensure_bridge(ip: IPRoute, network: Network, settings: Settings) -> Link:
    name, mark = names.bridge_name(network), names.mark(names.BRIDGE, network)
    # A hardware address of its own keeps it from taking its lowest port's, which would change.
    mac = mac_of(str(network.gateway))
    bridge = links.make(ip, name, mark, kind="bridge", address=mac, mtu=settings.best_mtu())
    if bridge is None or bridge.alias != mark:
        raise ConflictError(f"network {network.name}: link {name} belongs to someone else")
    _turn_ipv6_off(name)
    links.raise_up(ip, bridge)
    return bridge


def _ensure_tunnel(ip: IPRoute, network: Network, settings: Settings, bridge: Link) -> Link:
    name, mark = names.tunnel_name(network), names.mark(names.TUNNEL, network)
    tunnel = links.find(ip, name)
    if tunnel is not None and tunnel.master != bridge.number:  # its bridge was deleted
        links.delete(ip, name)
    tunnel = links.make(
        ip,
        name,
        mark,
        kind="vxlan",
        vxlan_id=settings.vni,
        vxlan_port=settings.port,
        vxlan_learning=False,  # who sends here does not thereby become somebody that is sent to
        mtu=bridge.mtu,
        master=bridge.number,
    )
    if tunnel is None:
        raise ConflictError(
            f"network {network.name}: there is a VXLAN link of number {settings.vni} at port {settings.port}",
            hint="choose another number: -o vni=NUMBER, the same on every host",
        )
    if tunnel.alias != mark:
        raise ConflictError(f"network {network.name}: link {name} belongs to someone else")
    return tunnel


def _send_to(ip: IPRoute, tunnel: Link, peers: tuple[str, ...]) -> None:
    """Let the tunnel send a copy of each frame to these hosts, and to no others."""
    entries = ip.fdb("dump", ifindex=tunnel.number)
    present = {entry.get("dst") for entry in entries if entry.get("lladdr") == _EVERYONE} - {None}
    for verb, wanted in (("append", set(peers) - present), ("del", present - set(peers))):
        for peer in sorted(wanted):
            try:
                with links.naming(f"peer {peer}"):
                    ip.fdb(verb, ifindex=tunnel.number, lladdr=_EVERYONE, dst=peer)
            except OSError as exc:
                if exc.errno not in (errno.EEXIST, errno.ENOENT):  # somebody else was faster
                    raise


def _turn_ipv6_off(bridge: str) -> None:
    """Keep containers from reaching what the host serves on [::] at the bridge's link-local address."""
    try:
        sysctl.write(sysctl.disable_ipv6(bridge), "1")
    except FileNotFoundError:
        return  # a kernel without IPv6
