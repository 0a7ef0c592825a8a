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
    """

    def __init__(self, stream: Readable, *, what: str = "archive", caps: Caps = DEFAULT) -> None:
        self._stream = stream
        self._what = what
        self._caps = caps
        self._buffer = b""
        self._at = 0  # in the buffer
        self._consumed = 0  # before the buffer
        self._data_left = 0
        self._padding = 0
        self._globals = pax.Extended(what)
        self._header_left = 0  # for all extended headers before the current entry
        self._records_left = caps.records
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
        said: pax.Extended | None = None
        long_name = long_link = None
        self._header_left = self._caps.header_bytes
        while True:
            self._skip_data()
            block = self._header_block()
            if block is None:
                if said is not None or long_name or long_link:
                    raise ImageError(f"{self._what}: ends after an extended header")
                return None
            entry = parse_block(block, self._what)
            if entry.type == _PAX:
                said = pax.Extended(self._what, self._globals) if said is None else said
                self._charge(said.add(self._special(entry), self._records_left))
            elif entry.type == _PAX_GLOBAL:
                self._add_global(self._special(entry))
            elif entry.type == _LONG_NAME:
                long_name = self._special(entry).rstrip(b"\0")
            elif entry.type == _LONG_LINK:
                long_link = self._special(entry).rstrip(b"\0")
            elif entry.type == _VOLUME_LABEL:
                self._special(entry)
            else:
                entry.name = entry.name if long_name is None else long_name
                entry.link = entry.link if long_link is None else long_link
                return self._complete(entry, block, self._globals if said is None else said)

    def _complete(self, entry: Entry, block: bytes, said: pax.Extended) -> Entry:
        if said:
            said.override(entry)
        if b"\0" in entry.name or b"\0" in entry.link:
            raise ImageError(f"{self._what}: a name holds a NUL byte")
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
            pax.read_sparse(entry, said, self._take, self._caps, self._what)
        self._charge(2 * len(entry.extents or ()))
        if entry.type in _REGULAR:
            entry.type = b"0"
        self.count += 1
        self._records_left += self._caps.records_per_entry
        if self.count > self._caps.entries:
            raise ImageError(f"{self._what}: more than {self._caps.entries} entries", hint="this looks like a bomb")
        return entry

    def _charge(self, count: int) -> None:
        """Account for records, or for numbers of a map of holes."""
        self._records_left -= count
        if self._records_left < 0:
            raise ImageError(f"{self._what}: {pax.TOO_MANY_RECORDS}", hint="this looks like a bomb")

    def _add_global(self, content: bytes) -> None:
        """Take in a header that holds for all entries to come; what it says of holes is of no file and left out."""
        self._charge(self._globals.add(content, self._records_left))
        self._globals.sparse.clear()
        self._globals.sparse_map.clear()
        if self._globals.bytes_kept() > self._caps.global_bytes:
            raise ImageError(
                f"{self._what}: global headers say more than {self._caps.global_bytes} bytes of every entry",
                hint="this looks like a bomb",
            )

    def _announce(self, size: int) -> None:
        self._data_left = size
        self._padding = -size % BLOCK

    def _special(self, entry: Entry) -> bytes:
        """Read the data of an extended header."""
        self._header_left -= BLOCK + entry.size
        if self._header_left < 0:
            raise ImageError(
                f"{self._what}: more than {self._caps.header_bytes} bytes of extended headers before one entry"
            )
        self._announce(entry.size)
        return self.read_data(entry.size)

    def _take(self, size: int) -> bytes:
        """Read a part of the current entry's data."""
        if size > self._data_left:
            raise ImageError(f"{self._what}: a sparse map longer than its file")
        self._data_left -= size
        return self._exactly(size)

    def _header_block(self) -> bytes | None:
        """Return the next block, None at the end: a block of zeros or, as tar(1) has it, nothing more."""
        block = self._exactly(BLOCK, or_nothing=True)
        return None if not block or block == _ZERO_BLOCK else block

    def _read_to_end(self) -> None:
        """Read the padding after the end marker; anything but zeros there is foul."""
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
        """Leave out what comes after the buffer, if the stream can."""
        skip = getattr(self._stream, "skip", None)
        after = self._data_left - (len(self._buffer) - self._at)
        if skip is None or after <= 0:
            return
        if not skip(after):
            raise ImageError(f"{self._what}: truncated")
        self._data_left -= after
        self._consumed += after

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
