"""Find and remove what no container and no network owns; see `pe_network_gc`.

A host may run engines with other root directories, whose containers and networks this one does not know. A network is
known by its name and subnet. What belongs to a known network must belong to a known container. What belongs to an
unknown network is left over only if nobody uses it: no namespace at the other end of a link, no such link for a port,
no port for a bridge.
"""

from __future__ import annotations

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket

from plugengine_net_bridge import firewall, forwarding, links, ports, table
from plugengine_net_bridge.names import bridge_name, label, marked_container, marked_network, split_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.kernel.rtnetlink import Link
    from plugengine.model import Network

    from plugengine_net_bridge.ports import Entry


def collect(networks: tuple[Network, ...], valid_ids: frozenset[str]) -> list[str]:
    """Remove links, bridges and rules of unknown containers and networks; return what was removed, in words."""
    known = _Known(networks, valid_ids)
    with NetlinkSocket(NETLINK_NETFILTER) as nf, NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
        removed = _collect_containers(rtnetlink, known)
        removed += _collect_ports(nf, rtnetlink, known)
        removed += _collect_bridges(rtnetlink, known)
        removed += _collect_rules(nf, rtnetlink, known)
        forwarding.give_back(nf, rtnetlink)
    return removed


class _Known:
    """What this engine knows."""

    def __init__(self, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> None:
        self.labels = frozenset(map(label, networks))
        self.bridges = frozenset(map(bridge_name, networks))
        self.valid_ids = valid_ids

    def disowns(self, owner: str, used: frozenset[str]) -> bool:
        """Tell whether what is marked so is left over, given the owners of links that are in use."""
        container_id, network = split_owner(owner)
        return container_id not in self.valid_ids if network in self.labels else owner not in used


def _owners_in_use(rtnetlink: NetlinkSocket) -> frozenset[str]:
    return frozenset(owner for owner, _ in _containers(rtnetlink))


def _containers(rtnetlink: NetlinkSocket) -> list[tuple[str, Link]]:
    """Return (owner, link) of the containers' links the kernel is not about to remove by itself."""
    marked = [(marked_container(link.alias), link) for link in rtnl.find_all(rtnetlink)]
    return [
        (owner, link) for owner, link in marked if owner is not None and not links.is_ending(rtnetlink, link.peer_nsid)
    ]


def _collect_containers(rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    removed = []
    for owner, link in _containers(rtnetlink):
        if known.disowns(owner, frozenset((owner,))):
            rtnl.delete(rtnetlink, link.name)
            removed.append(f"link {link.name} of container {split_owner(owner)[0]}")
    return removed


def _collect_ports(nf: NetlinkSocket, rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    used = _owners_in_use(rtnetlink)
    left = [entry for entry in ports.published(nf) if known.disowns(entry.owner, used)]
    ports.withdraw(nf, left)
    return [_port_in_words(entry) for entry in left]


def _port_in_words(entry: Entry) -> str:
    port = entry.port
    return f"published port {port.host_ip}:{port.host_port}/{port.protocol} of container {split_owner(entry.owner)[0]}"


def _collect_bridges(rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    everything = rtnl.find_all(rtnetlink)
    removed = []
    for link in everything:
        network = marked_network(link)
        if network is None or network in known.labels or links.in_use(rtnetlink, link, everything):
            continue
        rtnl.delete(rtnetlink, link.name)
        removed.append(f"bridge {link.name} of network {network}")
    return removed


def _collect_rules(nf: NetlinkSocket, rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    removed = []
    for bridge in table.bridges(nf):
        if bridge in known.bridges or rtnl.find(rtnetlink, bridge) is not None:
            continue
        firewall.withdraw(nf, bridge)
        table.forget(nf, bridge)
        removed.append(f"rules of bridge {bridge}")
    return removed
