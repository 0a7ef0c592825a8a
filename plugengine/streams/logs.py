"""The log of a container: docker's json-file format, one JSON object a line."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from plugengine.kernel import inotify
from plugengine.model import HostPath

PARTIAL_BYTES: Final = 16 << 10  # a longer line is logged in pieces without a newline, as docker does
_WITHOUT_EVENTS_S: Final = 0.05
_BLOCK: Final = 64 << 10
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
    with closing(LogFollower(path, tail=tail)) as follower:
        yield from follower.lines()


def _parse(line: bytes) -> LogLine | None:
    try:
        return msgspec.json.decode(line, type=LogLine)
    except msgspec.DecodeError:
        return None


def start_of_tail(stream: BinaryIO, lines: int) -> int:
    """Return where the last lines of a file begin; what follows the last newline is none yet. Read from the end."""
    position = stream.seek(0, os.SEEK_END)
    missing = max(lines, 0) + 1
    while position:
        size = min(position, _BLOCK)
        position -= size
        stream.seek(position)
        block = stream.read(size)
        end = size
        while (end := block.rfind(b"\n", 0, end)) >= 0:
            missing -= 1
            if not missing:
                return position + end + 1
    return 0


class LogFollower:
    """Reads a log, from its start or its last lines, and then what is added; holds one line at a time."""

    def __init__(self, path: HostPath, *, tail: int | None) -> None:
        self._path = path
        self._tail = tail
        self._stream: BinaryIO | None = None
        self._rest = b""
        self._events = -1

    def lines(self) -> Iterator[LogLine]:
        """Yield what is there and was not yielded before."""
        if self._stream is None:
            try:
                self._stream = open(self._path, "rb")  # noqa: SIM115 - until `close`
            except FileNotFoundError:
                return
            if self._tail is not None:
                self._stream.seek(start_of_tail(self._stream, self._tail))
        while line := self._stream.readline():
            self._rest += line
            if not line.endswith(b"\n"):
                return
            entry, self._rest = _parse(self._rest), b""
            if entry is not None:
                yield entry

    def wait(self, seconds: float) -> None:
        """Return when something was added, or after that time."""
        if self._events < 0:
            try:
                self._events = inotify.inotify_init()
                changes = inotify.IN_CREATE | inotify.IN_MODIFY | inotify.IN_CLOSE_WRITE | inotify.IN_DELETE_SELF
                # The directory, as the file is not there before the first start.
                inotify.inotify_add_watch(self._events, os.path.dirname(self._path), changes)
            except OSError:  # the user has too many, or the container was removed
                time.sleep(min(seconds, _WITHOUT_EVENTS_S))
                return
            seconds = 0  # something may have been added before we watched
        if select.select([self._events], [], [], seconds)[0]:
            os.read(self._events, _BLOCK)

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()
        if self._events >= 0:
            os.close(self._events)
            self._events = -1
