"""Network namespaces as things: tell one from all others, find it again, make one, count what went through a link."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from plugengine.kernel.links import in_namespace
from plugengine.kernel.process import CLONE_NEWNET, unshare

# include/uapi/asm-generic/socket.h
SO_NETNS_COOKIE = 71

_COOKIE = struct.Struct("=Q")
_HERE = "/proc/thread-self/ns/net"
# Fields of /proc/net/dev after the name; see net/core/net-procfs.c.
_RX_BYTES, _RX_PACKETS, _TX_BYTES, _TX_PACKETS = 0, 1, 8, 9


class NetnsId(NamedTuple):
    """What tells a network namespace from every other one of this boot.

    The inode's number alone does not: it is given to the next namespace as soon as the old one is gone.
    """

    inode: int
    cookie: int  # SO_NETNS_COOKIE (Linux 5.14); 0: the kernel has none


class Counters(NamedTuple):
    """What went through an interface."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0


def identify(fd: int) -> NetnsId:
    """Return the identity of an open network namespace."""
    import socket

    with in_namespace(fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            cookie = _COOKIE.unpack(probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, _COOKIE.size))[0]
        except OSError:
            cookie = 0
    return NetnsId(os.fstat(fd).st_ino, cookie)


def find(wanted: NetnsId) -> int | None:
    """Return a descriptor of a namespace that this or any other process is in or has open, for the caller to close.

    None: it is gone, or nobody can tell any more (no cookie, or held by a mount only).
    """
    if not wanted.cookie:
        return None
    for path in _places(wanted.inode):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_ino == wanted.inode and identify(fd) == wanted:
                return os.dup(fd)
        except OSError:
            continue
        finally:
            os.close(fd)
    return None


def _places(inode: int) -> Iterator[str]:
    """Yield where a namespace of that number is: our own descriptors first, then processes, of which there are many."""
    name = f"net:[{inode}]"
    for directory, form in (("/proc/self/fd", "/proc/self/fd/{}"), ("/proc", "/proc/{}/ns/net")):
        for number in filter(str.isdecimal, os.listdir(directory)):
            if _target(path := form.format(number)) == name:
                yield path


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def make() -> int:
    """Return the descriptor of a new network namespace, which lives as long as that is open."""
    here = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with in_namespace(here):
            unshare(CLONE_NEWNET)
            return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(here)


def counters(name: str, netns_fd: int) -> Counters:
    """Return what went through an interface of a namespace; zeros if it is not there."""
    with in_namespace(netns_fd), open("/proc/thread-self/net/dev", encoding="ascii") as stream:
        for line in stream:
            interface, colon, fields = line.partition(":")
            if colon and interface.strip() == name:
                numbers = [int(field) for field in fields.split()]
                return Counters(numbers[_RX_BYTES], numbers[_RX_PACKETS], numbers[_TX_BYTES], numbers[_TX_PACKETS])
    return Counters()
