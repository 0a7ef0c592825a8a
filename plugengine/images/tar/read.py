"""Read tar headers from a stream: ustar, GNU and PAX, with bytes for names and a bound on everything.

The standard library's tarfile reads a header of any claimed size into memory and guesses at what is malformed;
here the reader of hostile archives either understands an entry or refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.images.layers.paths import shown
from plugengine.images.tar import pax
from plugengine.images.tar.compression import CHUNK
from plugengine.images.tar.entry import BLOCK, Entry, parse_block
from plugengine.images.tar.limits import DEFAULT, Caps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugengine.images.tar.compression import Readable

_ZERO_BLOCK = b"\0" * BLOCK
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_OLD_SPARSE, _VOLUME_LABEL = b"S", b"V"
_HEADER_ONLY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_REGULAR = frozenset((b"0", b"\0", b"7", _OLD_SPARSE))
_KNOWN = _HEADER_ONLY | _REGULAR


class TarReader:
    """Yields entries one after another; between two of them the data of the first can be read.

    Args:
        stream: The plain tar.
        what: Names the archive in errors.
        caps: The limits.
        end_required: Refuse an archive without the end marker; not needed where a digest covers the whole.
    """

    def __init__(
        self, stream: Readable, *, what: str = "archive", caps: Caps = DEFAULT, end_required: bool = True
    ) -> None:
        self._stream = stream
        self._what = what
        self._caps = caps
        self._end_required = end_required
        self._buffer = b""
        self._at = 0  # in the buffer
        self._consumed = 0  # before the buffer
        self._data_left = 0
        self._padding = 0
        self._globals: dict[bytes, bytes] = {}
        self.count: int = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry
        self._read_to_end()

    def data(self) -> Iterator[bytes]:
        """Yield what is left of the current entry's stored data."""
        while self._data_left:
            chunk = self._some(self._data_left)
            self._data_left -= len(chunk)
            yield chunk

    def read_data(self, limit: int) -> bytes:
        """Return the current entry's data whole. Raises: ImageError when there is more than `limit`."""
        if self._data_left > limit:
            raise ImageError(f"{self._what}: a part of {self._data_left} bytes, more than {limit}")
        return b"".join(self.data())

    @property
    def offset(self) -> int:
        """Where in the stream the reader is."""
        return self._consumed + self._at

    # --- entries ---

    def _next(self) -> Entry | None:
        extended: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            self._skip_data()
            block = self._header_block()
            if block is None:
                if extended or long_name or long_link:
                    raise ImageError(f"{self._what}: ends behind an extended header")
                return None
            entry = parse_block(block, self._what)
            if entry.type == _PAX:
                extended += pax.parse_records(self._special(entry), self._what)
            elif entry.type == _PAX_GLOBAL:
                self._globals.update(pax.parse_records(self._special(entry), self._what))
            elif entry.type == _LONG_NAME:
                long_name = self._special(entry).rstrip(b"\0")
            elif entry.type == _LONG_LINK:
                long_link = self._special(entry).rstrip(b"\0")
            elif entry.type == _VOLUME_LABEL:
                self._announce(entry.size)
            else:
                return self._complete(entry, block, extended, long_name, long_link)

    def _complete(
        self,
        entry: Entry,
        block: bytes,
        extended: list[tuple[bytes, bytes]],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        entry.name = entry.name if long_name is None else long_name
        entry.link = entry.link if long_link is None else long_link
        pax.apply_records(entry, [*self._globals.items(), *extended], self._what)
        if entry.type not in _KNOWN:
            raise ImageError(f"{self._what}: entry {shown(entry.name)}: unknown type {entry.type!r}")
        if entry.type in _REGULAR and entry.name.endswith(b"/"):
            entry.type = b"5"  # how tar wrote directories before 1988, and some still do
        if entry.type in _HEADER_ONLY:
            entry.size = 0
        entry.stored = entry.size
        self._announce(entry.stored)
        if entry.type == _OLD_SPARSE:
            pax.read_old_sparse(entry, block, self._exactly, self._caps, self._what)
        else:
            pax.read_sparse(entry, dict(extended), extended, self._take, self._caps, self._what)
        if entry.type in _REGULAR:
            entry.type = b"0"
        self.count += 1
        if self.count > self._caps.entries:
            raise ImageError(f"{self._what}: more than {self._caps.entries} entries", hint="this looks like a bomb")
        return entry

    def _announce(self, size: int) -> None:
        self._data_left = size
        self._padding = -size % BLOCK

    def _special(self, entry: Entry) -> bytes:
        """Read the data of an extended header."""
        if entry.size > self._caps.header_bytes:
            raise ImageError(f"{self._what}: an extended header of {entry.size} bytes")
        self._announce(entry.size)
        return self.read_data(entry.size)

    def _take(self, size: int) -> bytes:
        """Read a part of the current entry's data."""
        if size > self._data_left:
            raise ImageError(f"{self._what}: a sparse map longer than its file")
        self._data_left -= size
        return self._exactly(size)

    def _header_block(self) -> bytes | None:
        """Return the next block, None at the end of the archive."""
        block = self._exactly(BLOCK, or_nothing=True)
        if not block:
            if self._end_required:
                raise ImageError(f"{self._what}: truncated: the end marker is missing")
            return None
        return None if block == _ZERO_BLOCK else block

    def _read_to_end(self) -> None:
        """Read the padding behind the end marker; anything but zeros there is foul."""
        while True:
            if self._buffer.count(0, self._at) != len(self._buffer) - self._at:
                raise ImageError(f"{self._what}: garbage after the end marker")
            if not self._fill():
                return

    # --- bytes ---

    def _skip_data(self) -> None:
        self._jump()
        for _ in self.data():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _jump(self) -> None:
        """Leave out what is behind the buffer, if the stream can."""
        skip = getattr(self._stream, "skip", None)
        behind = self._data_left - (len(self._buffer) - self._at)
        if skip is None or behind <= 0:
            return
        if not skip(behind):
            raise ImageError(f"{self._what}: truncated")
        self._data_left -= behind
        self._consumed += behind

    def _some(self, limit: int) -> bytes:
        """Return at least one byte."""
        if self._at == len(self._buffer) and not self._fill():
            raise ImageError(f"{self._what}: truncated")
        if self._at == 0 and len(self._buffer) <= limit:
            chunk = self._buffer
        else:
            chunk = self._buffer[self._at : self._at + limit]
        self._at += len(chunk)
        return chunk

    def _exactly(self, size: int, *, or_nothing: bool = False) -> bytes:
        end = self._at + size
        if end <= len(self._buffer):
            found, self._at = self._buffer[self._at : end], end
            return found
        parts = [self._buffer[self._at :]]
        self._at = len(self._buffer)
        missing = size - len(parts[0])
        while missing:
            if not self._fill():
                if or_nothing and not any(parts):
                    return b""
                raise ImageError(f"{self._what}: truncated")
            parts.append(self._buffer[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def _fill(self) -> bool:
        self._consumed += len(self._buffer)
        self._buffer = self._stream.read(CHUNK)
        self._at = 0
        return bool(self._buffer)
