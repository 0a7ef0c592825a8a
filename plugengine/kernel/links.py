"""Bring an interface up without a netlink library, and act inside another network namespace; netdevice(7)."""

from __future__ import annotations

import os
import struct
from ctypes import c_int, get_errno

from plugengine.kernel.libc import declare, encode, ioctl, os_error
from plugengine.kernel.process import CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

# include/uapi/linux/sockios.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914

# include/uapi/linux/if.h
IFF_UP = 1 << 0
IFF_LOOPBACK = 1 << 3
IFNAMSIZ = 16

# include/linux/socket.h and linux/net.h; the socket module costs more to import than an interface to bring up
AF_INET = 2
SOCK_DGRAM = 2
SOCK_CLOEXEC = os.O_CLOEXEC

# struct ifreq: name, and a union of 24 bytes that begins with the flags (bits, so read unsigned)
_IFREQ = struct.Struct(f"{IFNAMSIZ}sH22x")

_socket = declare("socket", c_int, c_int, c_int)


def link_flags(name: str | bytes) -> int:
    """SIOCGIFFLAGS: IFF_* of an interface of the current network namespace; ENODEV: there is none."""
    with _Socket() as fd:
        return _get_flags(fd, name)


def link_up(name: str | bytes, netns_fd: int | None = None) -> None:
    """SIOCSIFFLAGS: raise IFF_UP; one that is up already stays so.

    Args:
        name: The interface, mostly "lo".
        netns_fd: Open network namespace it lives in; None for the current one.
    """
    if netns_fd is not None:
        with in_namespace(netns_fd):
            link_up(name)
        return
    with _Socket() as fd:
        flags = _get_flags(fd, name)
        _ioctl(fd, SIOCSIFFLAGS, name, flags | IFF_UP)


def in_namespace(fd: int, nstype: int = CLONE_NEWNET) -> _InNamespace:
    """Return a context manager: the calling thread is in another namespace inside the block.

    For network namespaces (sockets made inside stay there), and UTS, IPC and cgroup ones. Not for CLONE_NEWUSER,
    which can't be left again without privilege, nor CLONE_NEWPID, which only acts on children, nor CLONE_NEWNS,
    which an interpreter with threads can't enter.

    Raises:
        OSError: On leaving, when there is no way back: the thread is then in the wrong namespace and must end.
    """
    return _InNamespace(fd, nstype)


_NAMESPACE_FILES = {
    CLONE_NEWNET: b"net",
    CLONE_NEWCGROUP: b"cgroup",
    CLONE_NEWUTS: b"uts",
    CLONE_NEWIPC: b"ipc",
}


class _InNamespace:
    def __init__(self, fd: int, nstype: int) -> None:
        if nstype not in _NAMESPACE_FILES:
            raise ValueError(f"namespace type {nstype:#x} can't be entered and left again")
        self._fd = fd
        self._nstype = nstype
        self._home = -1

    def __enter__(self) -> Self:
        name = _NAMESPACE_FILES[self._nstype]
        self._home = os.open(b"/proc/thread-self/ns/" + name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self._fd, self._nstype)
        except BaseException:
            os.close(self._home)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            setns(self._home, self._nstype)
        finally:
            os.close(self._home)


class _Socket:
    """A datagram socket, which the interface ioctls need only to have something to be called on."""

    def __enter__(self) -> int:
        self._fd = _socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
        if self._fd < 0:
            raise os_error(get_errno(), "socket", "AF_INET")
        return self._fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def _get_flags(fd: int, name: str | bytes) -> int:
    _, flags = _IFREQ.unpack(_ioctl(fd, SIOCGIFFLAGS, name, 0))
    return int(flags)


def _ioctl(fd: int, request: int, name: str | bytes, flags: int) -> bytearray:
    interface = encode(name)
    if len(interface) >= IFNAMSIZ:
        raise ValueError(f"interface name {name!r} is longer than {IFNAMSIZ - 1} bytes")
    buffer = bytearray(_IFREQ.pack(interface, flags))
    ioctl(fd, request, buffer, os.fsdecode(name))
    return buffer
