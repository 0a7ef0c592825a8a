"""A container's connection: a pair of links, one end a port of the bridge, the other in the container's namespace."""

from __future__ import annotations

from plugengine.errors import DriverError, NotSupportedError, UsageError
from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel import sysctl
from plugengine.kernel.addresses import InterfaceSocket, format_mac, mac_of, parse_mac
from plugengine.kernel.links import in_namespace
from plugengine.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from plugengine.kernel.rtnetlink import Prefix
from plugengine.model import Attachment, Interface

from plugengine_net_vxlan import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network, NetworkRequest

_GUEST = "eth0"


def attach(request: NetworkRequest) -> Attachment:
    """Make the pair, and set up the container's end; see `pe_network_attach`."""
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
    host_end = names.pair_name(request.network, request.container_id)
    mark = names.mark(names.PAIR, request.network, request.container_id)
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


def detach(network: Network, container_id: str) -> None:
    """Remove the pair by the host's end, which also takes the container's; see `pe_network_detach`."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        rtnl.delete(netlink, names.pair_name(network, container_id))


def _set_up(netns: int, address: Prefix) -> None:
    with in_namespace(netns):
        inside = InterfaceSocket()
        try:
            inside.up("lo")
            inside.set_address(_GUEST, address.packed, address.length)
            inside.up(_GUEST)
        finally:
            inside.close()
