"""Read `-p`, `--expose`, addresses and names of hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from plugengine.cli.parse.errors import FlagError
from plugengine.model import Port

PROTOCOLS: Final = ("tcp", "udp", "sctp")
_LARGEST: Final = 65_535
_EXAMPLE: Final = "8080:80"
_LONGEST_HOSTNAME: Final = 64  # uts_namespaces(7): __NEW_UTS_LEN
_LONGEST_LABEL: Final = 63


def parse_publish(flag: str, text: str) -> tuple[Port, ...]:
    """Return the ports of `[[ip:][host[-host]]:]guest[-guest][/protocol]`.

    Host port 0 asks for a free one, a range of host ports for one container port for the first free one of these.

    Raises:
        FlagError: Not in this form, or a range of another length on each side.
    """
    rest, protocol = _split_protocol(flag, text)
    if rest.startswith("[") or rest.count(":") > 2:
        raise FlagError(flag, text, "IPv6 addresses are not supported", example="127.0.0.1:8080:80")
    *front, guest = rest.split(":")
    host_ip = front[0] if len(front) == 2 else ""
    if host_ip:
        check_ipv4(flag, text, host_ip)
    host = front[-1] if front else ""
    guests = _parse_range(flag, text, guest, "container port")
    hosts = _parse_range(flag, text, host, "host port", least=0) if host else range(0)
    if len(hosts) > 1 and len(guests) == 1:
        return (
            Port(
                host_ip=host_ip, host_port=hosts[0], host_port_last=hosts[-1], guest_port=guests[0], protocol=protocol
            ),
        )
    if hosts and len(hosts) != len(guests):
        raise FlagError(
            flag, text, f"{len(hosts)} host ports for {len(guests)} container ports", example="8000-8010:80-90"
        )
    return tuple(
        Port(host_ip=host_ip, host_port=hosts[index] if hosts else 0, guest_port=number, protocol=protocol)
        for index, number in enumerate(guests)
    )


def parse_expose(flag: str, text: str) -> tuple[tuple[int, str], ...]:
    """Return the (port, protocol) pairs of "80", "80-90/udp"."""
    from plugengine.images.ports import expand

    try:
        return expand(text)
    except ValueError as exc:
        raise FlagError(flag, text, str(exc), example="80-90/udp") from exc


def with_exposed(ports: Iterable[Port], exposed: Iterable[tuple[int, str]]) -> Iterator[Port]:
    """Yield the ports, and a free host port for each exposed one that is not among them; for `-P`."""
    published = set()
    for port in ports:
        published.add((port.guest_port, port.protocol))
        yield port
    for number, protocol in exposed:
        if (number, protocol) not in published:
            published.add((number, protocol))
            yield Port(host_ip="", host_port=0, guest_port=number, protocol=protocol)


def _split_protocol(flag: str, text: str) -> tuple[str, str]:
    rest, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in PROTOCOLS:
        raise FlagError(flag, text, f"{protocol or 'nothing'} is no protocol: tcp, udp or sctp", example="53:53/udp")
    return rest, protocol.lower() or "tcp"


def _parse_range(flag: str, text: str, part: str, what: str, *, least: int = 1) -> range:
    first, dash, last = part.partition("-")
    start = _parse_port(flag, text, first, what, least)
    end = _parse_port(flag, text, last, what, least) if dash else start
    if end < start:
        raise FlagError(flag, text, f"{what}s {part} run backwards", example="8000-8010:80-90")
    return range(start, end + 1)


def _parse_port(flag: str, text: str, part: str, what: str, least: int) -> int:
    if not part:
        raise FlagError(flag, text, f"no {what}", example=_EXAMPLE)
    if not (part.isascii() and part.isdigit()):
        raise FlagError(flag, text, f"{what} {part} is not a number", example=_EXAMPLE)
    if len(part) > len(str(_LARGEST)) or not least <= int(part) <= _LARGEST:
        raise FlagError(flag, text, f"{what} {part} is not between {least} and {_LARGEST}", example=_EXAMPLE)
    return int(part)


def parse_add_host(flag: str, text: str) -> str:
    """Return "name:ip" of "name:ip" or "name=ip"; the ip may be host-gateway.

    Raises:
        FlagError: No name, or no address.
    """
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    address = address.removeprefix("[").removesuffix("]")
    if not found or not name or not address:
        raise FlagError(flag, text, "not NAME:IP", example="db:10.88.0.7")
    if address != "host-gateway":
        check_address(flag, text, address)
    return f"{name}:{address}"


def check_ipv4(flag: str, text: str, address: str) -> str:
    """Return an IPv4 address, or raise FlagError."""
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and _is_octet(part) for part in parts):
        raise FlagError(flag, text, f"{address} is not an IPv4 address")
    return address


def _is_octet(part: str) -> bool:
    return len(part) <= len("255") and part == str(int(part)) and int(part) <= 255


def check_address(flag: str, text: str, address: str) -> str:
    """Return an IPv4 or IPv6 address, or raise FlagError."""
    if ":" not in address:
        return check_ipv4(flag, text, address)
    import socket

    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        raise FlagError(flag, text, f"{address} is not an IP address") from None
    return address


def parse_mac(flag: str, text: str) -> str:
    """Return a unicast Ethernet address in lower case, or raise FlagError."""
    parts = text.lower().replace("-", ":").split(":")
    good = len(parts) == 6 and all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts)
    if not good:
        raise FlagError(flag, text, "not six bytes in hexadecimal", example="02:42:0a:58:00:02")
    if int(parts[0], 16) & 1:
        raise FlagError(flag, text, "a group address: the first byte must be even", example="02:42:0a:58:00:02")
    return ":".join(parts)


def parse_hostname(flag: str, text: str) -> str:
    """Return a host name, or raise FlagError; see hostname(7)."""
    labels = text.split(".")
    if len(text) > _LONGEST_HOSTNAME:
        raise FlagError(flag, text, f"longer than the kernel's {_LONGEST_HOSTNAME} characters", example="web")
    for label in labels:
        good = label.isascii() and label.replace("-", "").replace("_", "").isalnum() and len(label) <= _LONGEST_LABEL
        if not good or label.startswith("-") or label.endswith("-"):
            raise FlagError(flag, text, "not letters, digits and dashes, in parts joined by dots", example="web")
    return text
