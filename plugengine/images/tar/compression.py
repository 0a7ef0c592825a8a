"""Read compressed streams piece by piece, counting, hashing and refusing bombs; nothing is held in memory whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, cast

from plugengine.errors import ImageError
from plugengine.images.tar.limits import DEFAULT, Caps

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

CHUNK = 256 << 10

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_SKIPPABLE = b"\x2a\x4d\x18"  # RFC 8878, 3.1.2; pzstd begins its files with such a frame
_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"
_ZSTD_WINDOW_LOG = 27  # 128 MiB: what `zstd --ultra -22` may use; more is refused
_XZ_MEMORY_BYTES = 256 << 20
_GZIP_WINDOW = 31  # zlib: 15 bits of window, +16 for the gzip wrapper


class Readable(Protocol):
    """What the bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class Measured:
    """Counts and hashes what is read through it, and stops at a limit."""

    def __init__(
        self,
        source: Readable,
        *,
        what: str = "stream",
        limit: int | None = None,
        hashed: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._what = what
        self._limit = limit
        self._progress = progress
        self._hash: Any = None
        self.count: int = 0
        if hashed:
            from hashlib import sha256

            self._hash = sha256()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        data = self._source.read(size)
        self.count += len(data)
        if self._limit is not None and self.count > self._limit:
            raise ImageError(f"{self._what}: more than {self._limit} bytes")
        if self._hash is not None:
            self._hash.update(data)
        if self._progress is not None:
            self._progress(len(data))
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK):
            pass

    @property
    def digest(self) -> str:
        """The digest of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"


class Unpacked:
    """The bytes of a stream that may be compressed; gzip, zstd, bzip2 and xz are recognised by their first bytes.

    Args:
        source: The stored bytes.
        what: Names the stream in errors.
        caps: The byte and ratio limits.
    """

    def __init__(self, source: Readable, *, what: str = "stream", caps: Caps = DEFAULT) -> None:
        self._stored = Measured(source, what=what, hashed=False)
        self._what = what
        self._caps = caps
        first = _read_at_least(self._stored, len(_XZ))
        self.compression: str
        self.compression, opener = _recognise(first)
        self._plain: Readable = opener(Rewound(first, self._stored), what)
        self._count = 0

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the plain content."""
        try:
            data = self._plain.read(size)
        except (ImageError, MemoryError):
            raise
        except Exception as exc:  # each library has its own error class
            if isinstance(exc, OSError) and exc.errno:
                raise  # the disk's error, not the decoder's
            raise ImageError(f"{self._what}: damaged {self.compression} data: {exc}") from exc
        self._count += len(data)
        self._check()
        return data

    def _check(self) -> None:
        if self._count > self._caps.bytes:
            raise ImageError(
                f"{self._what}: more than {self._caps.bytes} bytes when unpacked", hint="this looks like a bomb"
            )
        if self._count > self._caps.ratio_from_bytes and self._count > self._caps.ratio * self._stored.count:
            raise ImageError(
                f"{self._what}: unpacks to more than {self._caps.ratio} times its size", hint="this looks like a bomb"
            )


class Rewound:
    """A stream some of whose first bytes were read already."""

    def __init__(self, first: bytes, rest: Readable) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes."""
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        return self._rest.read(size)


def _read_at_least(source: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := source.read(CHUNK)):
        data += more
    return data


def _recognise(first: bytes) -> tuple[str, Callable[[Readable, str], Readable]]:
    if first.startswith(_GZIP):
        return "gzip", _Gzip
    if first.startswith(_ZSTD) or (first[1:4] == _SKIPPABLE and first[0] & 0xF0 == 0x50):
        return "zstd", _zstd
    if first.startswith(_BZIP2):
        return "bzip2", _bzip2
    if first.startswith(_XZ):
        return "xz", _xz
    return "none", lambda source, _: source


class _Gzip:
    """gzip, RFC 1952: one or more members, zero padding at most after them."""

    def __init__(self, source: Readable, what: str) -> None:
        from zlib import decompressobj

        self._new = decompressobj
        self._source = source
        self._what = what
        self._pending = b""
        self._inflate = decompressobj(_GZIP_WINDOW)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._inflate.eof and not self._next_member():
                return b""
            stored = self._pending or self._source.read(CHUNK)
            data = self._inflate.decompress(stored, size)
            self._pending = self._inflate.unconsumed_tail
            if data:
                return data
            if not stored and not self._inflate.eof:
                raise ImageError(f"{self._what}: truncated gzip data")

    def _next_member(self) -> bool:
        rest = self._inflate.unused_data
        while len(rest := rest.lstrip(b"\0")) < len(_GZIP):
            more = self._source.read(CHUNK)
            if not more:
                break
            rest += more
        if not rest:
            return False
        if not rest.startswith(_GZIP):
            raise ImageError(f"{self._what}: garbage after the gzip data")
        self._pending = rest
        self._inflate = self._new(_GZIP_WINDOW)
        return True


def _bzip2(source: Readable, _what: str) -> Readable:
    import bz2

    return bz2.BZ2File(cast("BinaryIO", source))


def _xz(source: Readable, what: str) -> Readable:
    from lzma import FORMAT_XZ, LZMADecompressor

    # Unlike in lzma.LZMAFile, memory is limited.
    return _Streams(
        source, what, "xz", lambda: LZMADecompressor(FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES), _XZ, padded=True
    )


def _zstd(source: Readable, what: str) -> Readable:
    if sys.version_info >= (3, 14):
        from compression.zstd import DecompressionParameter, ZstdDecompressor
    else:
        from backports.zstd import DecompressionParameter, ZstdDecompressor
    options = {int(DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
    return _Streams(source, what, "zstd", lambda: ZstdDecompressor(options=options), b"", padded=False)


class _Decoder(Protocol):
    """What the decompressors of `lzma` and `compression.zstd` have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class _Streams:
    """xz streams or zstd frames, one or more; truncation is noticed, and what is no other stream after one refused.

    Args:
        source: The stored bytes.
        what: Names them in errors.
        kind: The compression, for errors.
        new: Makes a decoder of one stream.
        magic: What each stream begins with; empty: the decoder itself refuses what is none.
        padded: Whether zeros may follow a stream.
    """

    def __init__(
        self, source: Readable, what: str, kind: str, new: Callable[[], _Decoder], magic: bytes, *, padded: bool
    ) -> None:
        self._source = source
        self._what = what
        self._kind = kind
        self._new = new
        self._magic = magic
        self._padded = padded
        self._pending = b""
        self._decoder = new()

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decoder.eof and not self._next_stream():
                return b""
            stored = b""
            if self._decoder.needs_input:
                stored, self._pending = self._pending or self._source.read(CHUNK), b""
                if not stored:
                    raise ImageError(f"{self._what}: truncated {self._kind} data")
            data = self._decoder.decompress(stored, size)
            if data:
                return data

    def _next_stream(self) -> bool:
        rest = self._decoder.unused_data
        while len(rest := rest.lstrip(b"\0") if self._padded else rest) < max(len(self._magic), 1):
            more = self._source.read(CHUNK)
            if not more:
                break
            rest += more
        if not rest:
            return False
        if not rest.startswith(self._magic):
            raise ImageError(f"{self._what}: garbage after the {self._kind} data")
        self._pending = rest
        self._decoder = self._new()
        return True
