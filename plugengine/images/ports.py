"""Read what an image or a flag says of ports to expose: "80", "53/udp", "9000-9002/tcp"."""

from __future__ import annotations

from typing import Final

PROTOCOLS: Final = ("tcp", "udp", "sctp")
_LARGEST: Final = 65_535


def expand(text: str) -> tuple[tuple[int, str], ...]:
    """Return each port of a range and its protocol, tcp where none is given.

    Raises:
        ValueError: It is no port, or a range that runs backwards; says why.
    """
    numbers, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in PROTOCOLS:
        raise ValueError(f"{protocol or 'nothing'} is no protocol: tcp, udp or sctp")
    first, dash, last = numbers.partition("-")
    start = _port(first)
    end = _port(last) if dash else start
    if end < start:
        raise ValueError(f"ports {numbers} run backwards")
    return tuple((number, protocol.lower() or "tcp") for number in range(start, end + 1))


def _port(text: str) -> int:
    if not text:
        raise ValueError("no port")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"port {text} is not a number")
    if len(text) > len(str(_LARGEST)) or not 1 <= int(text) <= _LARGEST:
        raise ValueError(f"port {text} is not between 1 and {_LARGEST}")
    return int(text)
