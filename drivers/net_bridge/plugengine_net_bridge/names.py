"""Names and marks, all derived, so that whatever was left behind can be found again."""

from __future__ import annotations

import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.kernel.rtnetlink import Link
    from plugengine.model import Network

IFNAMSIZ = 16  # include/uapi/linux/if.h, with the terminator

# The network an engine has before anyone made one. The first to be made on a host gets a bridge that is easy to type,
# that of an engine with another root directory has another subnet.
_DEFAULT_NETWORKS = ("bridge", "default")
_DEFAULT_SUBNETS = (None, "10.88.0.0/16")
_DEFAULT_BRIDGE = "pe0"
_NETWORK_MARK = "plugengine network "
_CONTAINER_MARK = "plugengine container "


def bridge_name(network: Network) -> str:
    """Return the bridge of a network: the option `bridge`, `pe0`, `pe-NAME`, or a part of the name and its sum."""
    if chosen := network.options.get("bridge"):
        return str(chosen)
    name = network.name
    if name in _DEFAULT_NETWORKS:
        if network.subnet in _DEFAULT_SUBNETS:
            return _DEFAULT_BRIDGE
        name = str(network.subnet).partition("/")[0]
    plain = f"pe-{name}"
    if len(plain) < IFNAMSIZ and plain == _allowed(plain):
        return plain
    return f"pe-{_allowed(name)[:4]}{_sum(name)}"


def label(network: Network) -> str:
    """Return what tells a network from all others on this host: its name, its subnet and whose it is."""
    return f"{network.name} {network.subnet} {owner_mark(network.owner)}"


def owner_mark(engine: str) -> str:
    """Return what marks things as one engine's, by its root directory, which may be long."""
    return _sum(engine)


def owned_by(network_label: str, engine: str) -> bool:
    """Tell whether a network is one engine's."""
    return network_label.rpartition(" ")[2] == owner_mark(engine)


def veth_name(container_id: str, network_label: str) -> str:
    """Return the host's end of a container's link: a part of the id to read, and a sum of id and network."""
    return f"pe{_allowed(container_id)[:5]}{_sum(owner(container_id, network_label))}"


def network_mark(network_label: str) -> str:
    """Return the alias (`ip link` shows it) that says a bridge is ours."""
    return _NETWORK_MARK + network_label


def marked_network(link: Link) -> str | None:
    """Return the label of the network a bridge belongs to; None: not ours.

    A link of another kind may have the mark too: the driver macvlan marks the VLAN it made for a network.
    """
    ours = link.kind == "bridge" and link.alias.startswith(_NETWORK_MARK)
    return link.alias.removeprefix(_NETWORK_MARK) if ours else None


def container_mark(container_id: str, network_label: str) -> str:
    """Return the alias of the host's end of a container's link."""
    return f"{_CONTAINER_MARK}{owner(container_id, network_label)}"


def marked_container(alias: str) -> str | None:
    """Return the owner of a link with this alias; None: not ours."""
    return alias.removeprefix(_CONTAINER_MARK) if alias.startswith(_CONTAINER_MARK) else None


def owner(container_id: str, network_label: str) -> str:
    """Return the one text that marks what belongs to one container on one network."""
    return f"{container_id} {network_label}"


def split_owner(text: str) -> tuple[str, str]:
    """Return (container id, label of the network) of an owner."""
    container_id, _, network_label = text.partition(" ")
    return container_id, network_label


def _allowed(text: str) -> str:
    return "".join(char for char in text if char.isascii() and (char.isalnum() or char in "-_."))


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
