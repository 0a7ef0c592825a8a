"""A network namespace to act in: listen, connect, send, with real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final, Self

from plugengine.kernel import netns, sysctl
from plugengine.kernel.links import in_namespace

PATIENCE_S: Final = 8.0  # for what must come; well within the deadline of a case, which then says what did not
IMPATIENCE_S: Final = 0.25  # for what must not come
_OWN: Final = "/proc/thread-self/ns/net"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - of a namespace of the case's own


class Place:
    """A network namespace kept alive by a descriptor, and by the sockets made in it."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd: int = netns.make() if fd is None else fd
        if fd is None:
            with self.inside():
                forward_nothing()

    @classmethod
    def here(cls) -> Self:
        """Return the place this process is in."""
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        """Let it die."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Act in it."""
        with in_namespace(self.fd):
            yield

    def run(self, *command: str) -> str:
        """Run a program in it."""
        with self.inside():
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def listen(self, port: int, address: str = EVERYWHERE) -> socket.socket:
        """Return a listening TCP socket of it."""
        with self.inside():
            server = socket.socket(_family(address), socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen()
        server.settimeout(PATIENCE_S)
        return server

    def bind_udp(self, port: int, address: str = EVERYWHERE) -> socket.socket:
        """Return a UDP socket of it."""
        with self.inside():
            server = socket.socket(_family(address), socket.SOCK_DGRAM)
        server.bind((address, port))
        server.settimeout(PATIENCE_S)
        return server

    def connect(self, address: str, port: int, *, timeout: float = PATIENCE_S, source: str = "") -> socket.socket:
        """Return a TCP connection from it."""
        with self.inside():
            client = socket.socket(_family(address), socket.SOCK_STREAM)
        try:
            if source:
                client.bind((source, 0))
            client.settimeout(timeout)
            client.connect((address, port))
        except BaseException:
            client.close()
            raise
        return client

    def reaches(self, address: str, port: int, *, within_s: float = IMPATIENCE_S) -> bool:
        """Tell whether a TCP connection comes about."""
        try:
            self.connect(address, port, timeout=within_s).close()
        except OSError:
            return False
        return True


def forward_nothing() -> None:
    """Let the current namespace forward nothing: a new one has inherited what the machine does."""
    sysctl.write(sysctl.IP_FORWARD, "0")


@contextmanager
def router() -> Iterator[None]:
    """Make a router of the current namespace for a while."""
    sysctl.write(sysctl.IP_FORWARD, "1")
    try:
        yield
    finally:
        forward_nothing()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def talk(client: socket.socket, server: socket.socket) -> str:
    """Accept the client's connection, send bytes both ways; return the address the server saw.

    Raises:
        OSError: Nothing came in time, or something else than was sent.
    """
    with closing(client), closing(server.accept()[0]) as accepted:
        accepted.settimeout(PATIENCE_S)
        for sender, receiver, word in ((client, accepted, b"ping"), (accepted, client, b"pong")):
            sender.sendall(word)
            if (heard := receiver.recv(16)) != word:
                raise OSError(f"sent {word!r}, received {heard!r}")
        return str(accepted.getpeername()[0])


def question(client: socket.socket, server: socket.socket, address: str, port: int) -> str:
    """Send a datagram and answer it; return the address the server saw.

    Raises:
        OSError: Nothing came in time. The question is sent several times: the first may go while ARP is asked.
    """
    client.settimeout(IMPATIENCE_S)
    server.settimeout(IMPATIENCE_S)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.sendto(b"question", (address, port))
            _, sender = server.recvfrom(16)
            server.sendto(b"answer", sender)
            client.recv(16)
        except OSError:
            if time.monotonic() > end:
                raise
        else:
            return str(sender[0])
