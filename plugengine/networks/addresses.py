"""IPv4 addresses and subnets as plain integers; `ipaddress` would cost milliseconds at import."""

from __future__ import annotations

from typing import Final

from plugengine.errors import UsageError

_BITS: Final = 32
_ALL: Final = (1 << _BITS) - 1
_BYTES: Final = 4
_LARGEST_BYTE: Final = 255
_DIGITS: Final = 3


def parse_address(text: str) -> int:
    """Return an IPv4 address as a number.

    Raises:
        UsageError: It is none; leading zeros are refused, because some would read them as octal.
    """
    parts = text.split(".")
    if len(parts) != _BYTES or not all(part.isascii() and part.isdecimal() and len(part) <= _DIGITS for part in parts):
        raise UsageError(f"address {text!r}: not an IPv4 address")
    numbers = [int(part) for part in parts]
    if max(numbers) > _LARGEST_BYTE or [str(number) for number in numbers] != parts:
        raise UsageError(f"address {text!r}: not an IPv4 address")
    return int.from_bytes(bytes(numbers), "big")


def format_address(address: int) -> str:
    """Return an address as text."""
    return ".".join(map(str, address.to_bytes(_BYTES, "big")))


def parse_cidr(text: str) -> tuple[int, int]:
    """Return (network address, prefix length) of "10.88.0.0/16".

    Raises:
        UsageError: It is no subnet.
    """
    address, slash, length = text.partition("/")
    if not (slash and length.isascii() and length.isdecimal() and int(length) <= _BITS):
        raise UsageError(f"subnet {text!r}: not of the form 10.88.0.0/16")
    return parse_address(address) & ~(_ALL >> int(length)), int(length)


def format_cidr(address: int, length: int) -> str:
    """Return an address and a prefix length as text."""
    return f"{format_address(address)}/{length}"


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two parsed subnets share an address."""
    length = min(one[1], other[1])
    mask = ~(_ALL >> length)
    return one[0] & mask == other[0] & mask


def hosts(subnet: tuple[int, int]) -> tuple[int, int]:
    """Return the first and the last address between the network's own and the broadcast address."""
    start, length = subnet
    return start + 1, (start | _ALL >> length) - 1
