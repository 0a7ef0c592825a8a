"""Read and write the network settings below /proc/sys of the calling thread's network namespace; see sysctl(8)."""

from __future__ import annotations

import os

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
