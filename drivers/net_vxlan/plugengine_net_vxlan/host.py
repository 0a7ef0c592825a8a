"""The host's side of a network as the hooks see it: looked at before every start, made when something is missing."""

from __future__ import annotations

from plugengine.errors import DriverError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket

from plugengine_net_vxlan import names
from plugengine_net_vxlan.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, Record


def create(network: Network) -> Record:
    """Make the bridge and the tunnel, or repair them; see `pe_network_create`."""
    if not network.subnet or not network.gateway:
        raise UsageError(f"network {network.name}: needs a subnet")
    settings = Settings.of(network.name, network.options)
    try:
        if not _is_complete(network):
            from plugengine_net_vxlan import tunnel  # which loads pyroute2: half a second, not before every start

            tunnel.make(network, settings)
    except OSError as exc:
        raise DriverError(f"make network {network.name}: {exc.filename}: {exc.strerror}") from exc
    return {"bridge": names.bridge_name(network)}


def remove(network: Network) -> None:
    """Remove the tunnel and the bridge; see `pe_network_remove`."""
    from plugengine_net_vxlan import tunnel

    try:
        tunnel.remove(network)
    except OSError as exc:
        raise DriverError(f"remove network {network.name}: {exc.filename}: {exc.strerror}") from exc


def _is_complete(network: Network) -> bool:
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        bridge = rtnl.find(netlink, names.bridge_name(network))
        tunnel = rtnl.find(netlink, names.tunnel_name(network))
    if bridge is None or tunnel is None:
        return False
    marked = (bridge.alias, tunnel.alias) == (names.mark(names.BRIDGE, network), names.mark(names.TUNNEL, network))
    return marked and tunnel.master == bridge.index and bridge.up and tunnel.up and not bridge.ipv6
