"""Names, marks and hardware addresses, all derived, so that whatever was left behind can be found again."""

from __future__ import annotations

import socket
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.model import Network

IFNAMSIZ = 16  # include/uapi/linux/if.h, with the terminator

# Networks an engine has before anyone made one; their bridge is easy to type.
_DEFAULT_NETWORKS = ("bridge", "default")
_DEFAULT_BRIDGE = "pe0"
_NETWORK_MARK = "plugengine network "
_CONTAINER_MARK = "plugengine container "
# A locally administered address, as docker's: the second bit of the first byte is set.
_MAC_PREFIX = bytes((0x02, 0x42))


def bridge_name(network: Network) -> str:
    """Return the bridge of a network: the option `bridge`, `pe0`, `pe-NAME`, or a part of the name and its sum."""
    if chosen := network.options.get("bridge"):
        return chosen
    if network.name in _DEFAULT_NETWORKS:
        return _DEFAULT_BRIDGE
    plain = f"pe-{network.name}"
    if len(plain) < IFNAMSIZ and plain == _allowed(plain):
        return plain
    return f"pe-{_allowed(network.name)[:4]}{_sum(network.name)}"


def veth_name(container_id: str, network_name: str) -> str:
    """Return the host's end of a container's link: a part of the id to read, and a sum of id and network."""
    return f"pe{_allowed(container_id)[:5]}{_sum(f'{container_id} {network_name}')}"


def network_mark(network_name: str) -> str:
    """Return the alias (`ip link` shows it) that says a bridge is ours."""
    return _NETWORK_MARK + network_name


def marked_network(alias: str) -> str | None:
    """Return the network a bridge with this alias belongs to; None: not ours."""
    return alias.removeprefix(_NETWORK_MARK) if alias.startswith(_NETWORK_MARK) else None


def container_mark(container_id: str, network_name: str) -> str:
    """Return the alias of the host's end of a container's link."""
    return f"{_CONTAINER_MARK}{owner(container_id, network_name)}"


def marked_container(alias: str) -> tuple[str, str] | None:
    """Return (container id, network) a link with this alias belongs to; None: not ours."""
    if not alias.startswith(_CONTAINER_MARK):
        return None
    return split_owner(alias.removeprefix(_CONTAINER_MARK))


def owner(container_id: str, network_name: str) -> str:
    """Return the comment of a rule element that belongs to one container on one network."""
    return f"{container_id} {network_name}"


def split_owner(text: str) -> tuple[str, str]:
    """Return (container id, network) of a comment."""
    container_id, _, network_name = text.partition(" ")
    return container_id, network_name


def mac_of(address: str) -> str:
    """Return the hardware address that goes with an IPv4 address, so that ARP caches stay right."""
    return format_mac(_MAC_PREFIX + socket.inet_pton(socket.AF_INET, address))


def parse_mac(text: str) -> bytes:
    """Return the six bytes of `02:42:0a:58:00:02`.

    Raises:
        ValueError: It is none, or one that no single interface can have.
    """
    parts = text.replace("-", ":").split(":")
    if len(parts) != len("123456") or not all(len(part) == len("00") for part in parts):
        raise ValueError(f"hardware address {text!r}: not of the form 02:42:0a:58:00:02")
    mac = bytes.fromhex("".join(parts))
    if mac[0] & 1 or not any(mac):
        raise ValueError(f"hardware address {text!r}: a group's, not an interface's")
    return mac


def format_mac(mac: bytes) -> str:
    """Return `02:42:0a:58:00:02`."""
    return mac.hex(":")


def _allowed(text: str) -> str:
    return "".join(char for char in text if char.isascii() and (char.isalnum() or char in "-_."))


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
