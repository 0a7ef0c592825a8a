"""The log of a container: docker's json-file format, one JSON object a line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import Struct

from plugengine.model import HostPath

PARTIAL_BYTES: Final = 16 << 10  # a longer line is logged in pieces without a newline, as docker does
_FOLLOW_S: Final = 0.05
_LONGEST_CHARACTER: Final = 4  # bytes


class LogLine(Struct, frozen=True):
    """One line of a log file."""

    log: str
    stream: str  # stdout or stderr
    time: str  # RFC 3339 with nanoseconds, UTC


def timestamp(time_ns: int) -> str:
    """Return RFC 3339 with nanoseconds, UTC; zero time as docker shows it for "never"."""
    if not time_ns:
        return "0001-01-01T00:00:00Z"
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


class LogWriter:
    """Appends output to the log file, line by line; a full disk loses lines, never the container."""

    def __init__(self, path: HostPath) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._partial: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._encoder = msgspec.json.Encoder()

    def write(self, stream: str, data: bytes) -> None:
        """Log what the container wrote; incomplete lines wait for their end."""
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        pieces: list[bytes] = []
        for line in lines:
            pieces += _pieces(line + b"\n")
        *more, self._partial[stream] = _pieces(rest)
        self._append(b"".join(self._line(stream, piece) for piece in (*pieces, *more)))

    def close(self) -> None:
        """Log what is left and close the file."""
        for stream, rest in self._partial.items():
            if rest:
                self._append(self._line(stream, rest))
        os.close(self._fd)

    def _line(self, stream: str, text: bytes) -> bytes:
        entry = LogLine(text.decode("utf-8", "replace"), stream, timestamp(time.time_ns()))
        return self._encoder.encode(entry) + b"\n"

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            return


def _pieces(line: bytes) -> list[bytes]:
    """Cut a line into pieces of at most PARTIAL_BYTES, between characters where it is UTF-8; the last may be empty."""
    found: list[bytes] = []
    while len(line) > PARTIAL_BYTES:
        end = PARTIAL_BYTES
        while end > PARTIAL_BYTES - _LONGEST_CHARACTER and line[end] & 0b1100_0000 == 0b1000_0000:  # see utf-8(7)
            end -= 1
        if end == PARTIAL_BYTES - _LONGEST_CHARACTER:
            end = PARTIAL_BYTES  # not UTF-8
        found.append(line[:end])
        line = line[end:]
    return [*found, line]


def read_lines(path: HostPath, *, tail: int | None = None) -> Iterator[LogLine]:
    """Yield the lines logged so far, the last `tail` only when given; damaged lines are passed over."""
    try:
        with open(path, "rb") as stream:
            lines: list[bytes] | Iterator[bytes] = stream
            if tail is not None:
                from collections import deque

                lines = list(deque(stream, maxlen=tail)) if tail > 0 else []
            for line in lines:
                entry = _parse(line)
                if entry is not None:
                    yield entry
    except FileNotFoundError:
        return


def _parse(line: bytes) -> LogLine | None:
    try:
        return msgspec.json.decode(line, type=LogLine)
    except msgspec.DecodeError:
        return None


class LogFollower:
    """Reads a log from its start or end and then what is added."""

    def __init__(self, path: HostPath, *, tail: int | None) -> None:
        self._path = path
        self._tail = tail
        self._position = 0
        self._rest = b""

    def first(self) -> Iterator[LogLine]:
        """Yield what is there now."""
        try:
            self._position = os.stat(self._path).st_size
        except FileNotFoundError:
            return
        with open(self._path, "rb") as stream:
            lines = stream.read(self._position).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._rest = lines.pop()
        for line in lines if self._tail is None else lines[max(0, len(lines) - self._tail) :]:
            entry = _parse(line)
            if entry is not None:
                yield entry

    def more(self) -> Iterator[LogLine]:
        """Yield what was added since; sleeps a moment when nothing was."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self._position)
                data = stream.read()
        except FileNotFoundError:
            return
        if not data:
            time.sleep(_FOLLOW_S)
            return
        self._position += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            entry = _parse(line)
            if entry is not None:
                yield entry
