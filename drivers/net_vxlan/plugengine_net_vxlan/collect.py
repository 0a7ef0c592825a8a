"""Find and remove what no container and no network of this engine owns; see `pe_network_gc`."""

from __future__ import annotations

from pyroute2 import IPRoute

from plugengine_net_vxlan import links, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network


def collect(engine: str, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> list[str]:
    """Remove one engine's links that are left over; return them in words."""
    known = frozenset(network.name for network in networks)
    kinds = (
        (names.PAIR, "container", valid_ids),
        (names.TUNNEL, "network", known),
        (names.BRIDGE, "network", known),
    )
    removed = []
    with IPRoute() as ip:
        for link in links.find_all(ip):
            for mark, kind, valid in kinds:
                whose, _, owner = link.alias.removeprefix(mark).partition(" ")
                if link.alias.startswith(mark) and whose == names.engine_mark(engine) and owner not in valid:
                    links.delete(ip, link.name)
                    removed.append(f"link {link.name} of {kind} {owner}")
    return removed
