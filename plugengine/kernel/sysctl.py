"""Read and write the network settings below /proc/sys of the calling thread's network namespace; see sysctl(8)."""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IP_FORWARD = "net/ipv4/ip_forward"


def forwarding(interface: str) -> str:
    """Name the setting that lets IPv4 packets that come in by an interface be forwarded."""
    return f"net/ipv4/conf/{interface}/forwarding"


def route_localnet(interface: str) -> str:
    """Name the setting that lets packets of 127.0.0.0/8 use an interface."""
    return f"net/ipv4/conf/{interface}/route_localnet"


def accept_ra(interface: str) -> str:
    """Name the setting that lets router advertisements configure an interface; CVE-2020-13401."""
    return f"net/ipv6/conf/{interface}/accept_ra"


def disable_ipv6(interface: str) -> str:
    """Name the setting that keeps an interface from having IPv6 addresses and taking IPv6 packets."""
    return f"net/ipv6/conf/{interface}/disable_ipv6"


@contextmanager
def born_without_ipv6() -> Iterator[None]:
    """Have interfaces that are made meanwhile in this network namespace start without IPv6.

    Else the kernel gives each a link-local address, by which services on `::` are reached past whatever rules there are
    for IPv4. Should a container's owner turn IPv6 on, router advertisements still do not configure these interfaces.
    """
    try:
        before = read(disable_ipv6("default"))
    except FileNotFoundError:  # a kernel without IPv6
        yield
        return
    write(accept_ra("default"), "0")
    write(disable_ipv6("default"), "1")
    try:
        yield
    finally:
        write(disable_ipv6("default"), before)


def read(name: str) -> str:
    """Return the value."""
    fd = os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


def write(name: str, value: str) -> None:
    """Set the value."""
    fd = os.open(_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def ensure(name: str, value: str) -> str:
    """Set the value if it is another; return what it was."""
    before = read(name)
    if before != value:
        write(name, value)
    return before


def _path(name: str) -> str:
    return "/proc/sys/" + name
