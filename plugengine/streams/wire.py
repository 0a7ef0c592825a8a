"""Frames between a container's monitor and its clients, on a stream socket in the run directory.

One frame is a header (type, length; network byte order) and a payload. STDIN, STDOUT and STDERR carry bytes (an empty
one is end of file); REQUEST, REPLY and EVENT carry one JSON object. A client sends requests and STDIN; the monitor
answers each request with one REPLY, in order, and sends EVENTs ("started", "exit", "error") to attached clients.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from plugengine.errors import PlugengineError, StateError

HEADER: Final = struct.Struct("!BI")
STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
REQUEST: Final = 3
REPLY: Final = 4
EVENT: Final = 5
MAX_PAYLOAD: Final = 1 << 20


def pack(kind: int, payload: bytes) -> bytes:
    """Return one frame."""
    return HEADER.pack(kind, len(payload)) + payload


def pack_json(kind: int, value: Mapping[str, Any]) -> bytes:
    """Return one frame with a JSON object."""
    return pack(kind, msgspec.json.encode(value))


def pack_error(kind: int, exc: PlugengineError) -> bytes:
    """Return one frame with an error, as `session.raise_error` raises it again."""
    event = {"event": "error", "class": type(exc).__name__, "message": exc.message, "hint": exc.hint}
    return pack_json(kind, event)


def unpack_json(payload: bytes) -> dict[str, Any]:
    """Return the JSON object of a frame.

    Raises:
        StateError: It is not one.
    """
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise StateError(f"monitor socket: damaged message: {exc}") from exc


class Decoder:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that are complete now.

        Raises:
            StateError: The peer announced a frame over MAX_PAYLOAD.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= HEADER.size:
                kind, length = HEADER.unpack_from(buffer, position)
                if length > MAX_PAYLOAD:
                    raise StateError(f"monitor socket: a frame of {length} bytes")
                end = position + HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[position + HEADER.size : end])
                position = end
                yield kind, payload
        finally:
            del buffer[:position]


def bind(directory: str, name: str) -> socket.socket:
    """Return a listening socket `directory/name` of mode 0600; a stale one is replaced.

    The address goes through a descriptor of the directory, because sun_path holds 108 bytes only; see unix(7).
    """
    path = os.path.join(directory, name)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        server.bind(f"/proc/self/fd/{at}/{name}")
        server.listen(64)
    finally:
        os.umask(mask)
        os.close(at)
    return server


def connect(directory: str, name: str) -> socket.socket:
    """Return a connection to the monitor that listens at `directory/name`.

    Raises:
        OSError: Nobody listens there.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{at}/{name}")
        finally:
            os.close(at)
    except OSError:
        client.close()
        raise
    return client


def peer_is_owner(connection: socket.socket) -> bool:
    """Tell whether the peer runs as root or as our own user; see SO_PEERCRED in unix(7)."""
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid in (0, os.geteuid())
