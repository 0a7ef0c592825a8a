"""Find and remove what no container and no network owns; see `pe_network_gc`.

A host may run engines with other root directories. Their things carry their mark and are not looked at. What carries
ours and is of a container that is not valid, or of a network that is not known any more and that nobody uses, goes.
"""

from __future__ import annotations

from plugengine.kernel import rtnetlink as rtnl
from plugengine.kernel.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket

from plugengine_net_bridge import firewall, forwarding, links, ports, table
from plugengine_net_bridge.names import (
    bridge_name,
    label,
    marked_container,
    marked_network,
    owned_by,
    owner_mark,
    split_owner,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.kernel.rtnetlink import Link
    from plugengine.model import Network

    from plugengine_net_bridge.ports import Entry


def collect(engine: str, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> list[str]:
    """Remove one engine's links, bridges and rules of unknown containers and networks; return them in words."""
    known = _Known(engine, networks, valid_ids)
    with NetlinkSocket(NETLINK_NETFILTER) as nf, NetlinkSocket(NETLINK_ROUTE) as rtnetlink:
        removed = _collect_containers(rtnetlink, known)
        removed += _collect_ports(nf, rtnetlink, known)
        removed += _collect_bridges(rtnetlink, known)
        removed += _collect_rules(nf, rtnetlink, known)
        forwarding.give_back(nf, rtnetlink)
    return removed


class _Known:
    """What this engine knows."""

    def __init__(self, engine: str, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> None:
        self.engine = engine
        self.labels = frozenset(map(label, networks))
        self.bridges = frozenset(map(bridge_name, networks))
        self.valid_ids = valid_ids

    def disowns(self, owner: str, *, linked: bool) -> bool:
        """Tell whether what is marked so is this engine's and left over; `linked`: the container has its link."""
        container_id, network = split_owner(owner)
        if not owned_by(network, self.engine):
            return False
        return container_id not in self.valid_ids or (network not in self.labels and not linked)


def _containers(rtnetlink: NetlinkSocket) -> dict[str, Link]:
    """Return the containers' links by owner, but for those the kernel is about to remove by itself."""
    marked = [(marked_container(link.alias), link) for link in rtnl.find_all(rtnetlink)]
    return {
        owner: link for owner, link in marked if owner is not None and not links.is_ending(rtnetlink, link.peer_nsid)
    }


def _collect_containers(rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    removed = []
    for owner, link in _containers(rtnetlink).items():
        if known.disowns(owner, linked=True):
            rtnl.delete(rtnetlink, link.name)
            removed.append(f"link {link.name} of container {split_owner(owner)[0]}")
    return removed


def _collect_ports(nf: NetlinkSocket, rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    linked = _containers(rtnetlink)
    left = [entry for entry in ports.published(nf) if known.disowns(entry.owner, linked=entry.owner in linked)]
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
        if network is None or network in known.labels or not owned_by(network, known.engine):
            continue
        if links.in_use(rtnetlink, link, everything):
            continue
        rtnl.delete(rtnetlink, link.name)
        removed.append(f"bridge {link.name} of network {network.partition(' ')[0]}")
    return removed


def _collect_rules(nf: NetlinkSocket, rtnetlink: NetlinkSocket, known: _Known) -> list[str]:
    removed = []
    for bridge, engine in table.bridges(nf).items():
        if bridge in known.bridges or engine != owner_mark(known.engine) or rtnl.find(rtnetlink, bridge) is not None:
            continue
        firewall.withdraw(nf, bridge)
        table.forget(nf, bridge)
        removed.append(f"rules of bridge {bridge}")
    return removed
