"""Names and marks of links, all derived, so that whatever was left behind can be found again; pure."""

from __future__ import annotations

import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network

BRIDGE = "vxlan network "
TUNNEL = "vxlan tunnel "
PAIR = "vxlan container "


def bridge_name(network: Network) -> str:
    """Return the name of a network's bridge."""
    return _name("vxb", network)


def tunnel_name(network: Network) -> str:
    """Return the name of a network's VXLAN link."""
    return _name("vxt", network)


def pair_name(network: Network, container_id: str) -> str:
    """Return the name of the host's end of a container's pair of links."""
    return _name("vxc", network, container_id)


def mark(kind: str, network: Network, owner: str = "") -> str:
    """Return the alias of a link: what it is, whose engine's, and of which network or container."""
    return f"{kind}{engine_mark(network.owner)} {owner or network.name}"


def engine_mark(root: str) -> str:
    """Return what marks links as one engine's; an alias is too short for some paths."""
    return f"{zlib.crc32(root.encode()):08x}"


def _name(prefix: str, network: Network, *owner: str) -> str:
    return f"{prefix}{zlib.crc32(' '.join((network.owner, network.name, *owner)).encode()):08x}"
