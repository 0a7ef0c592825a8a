"""Find and remove what no container and no network owns; see `pe_network_gc`."""

from __future__ import annotations

import errno

from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket

from plugengine_net_bridge import firewall, pair, ports, rtnl, table
from plugengine_net_bridge.bridge import all_links
from plugengine_net_bridge.names import bridge_name, marked_container, marked_network, owner, split_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network

_GONE = frozenset((errno.ENODEV,))


def collect(networks: tuple[Network, ...], valid_ids: frozenset[str]) -> list[str]:
    """Remove links, bridges and rules of unknown containers and networks; return what was removed, in words."""
    names = frozenset(network.name for network in networks)
    with NetlinkSocket(NETLINK_NETFILTER) as nf, NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
        removed = _collect_ports(nf, names, valid_ids)
        removed += _collect_links(rtnetlink, names, valid_ids)
        removed += _collect_networks(nf, frozenset(map(bridge_name, networks)))
    return removed


def _collect_ports(nf: NetlinkSocket, names: frozenset[str], valid_ids: frozenset[str]) -> list[str]:
    keep = frozenset(owner(container_id, name) for container_id in valid_ids for name in names)
    return [
        f"published port {entry.port.host_ip}:{entry.port.host_port}/{entry.port.protocol} "
        f"of container {split_owner(entry.owner)[0]}"
        for entry in ports.withdraw(nf, keep=keep)
    ]


def _collect_links(rtnetlink: NetlinkSocket, names: frozenset[str], valid_ids: frozenset[str]) -> list[str]:
    removed = []
    for link in all_links(rtnetlink):
        container, network = marked_container(link.alias), marked_network(link.alias)
        if container is not None and (container[0] not in valid_ids or container[1] not in names):
            what = f"link {link.name} of container {container[0]}"
        elif network is not None and network not in names:
            what = f"bridge {link.name} of network {network}"
        else:
            continue
        if pair.is_ending(rtnetlink, link):
            continue  # the kernel is at it
        rtnetlink.execute(rtnl.delete_link(link.name), accept=_GONE)
        removed.append(what)
    return removed


def _collect_networks(nf: NetlinkSocket, known: frozenset[str]) -> list[str]:
    unknown = [bridge for bridge in table.bridges(nf) if bridge not in known]
    for bridge in unknown:
        firewall.withdraw(nf, bridge)
        table.forget(nf, bridge)
    return [f"rules of bridge {bridge}" for bridge in unknown]
