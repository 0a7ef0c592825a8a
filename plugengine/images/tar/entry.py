"""One entry of a tar archive, and the 512 bytes it begins with; see tar(5)."""

from __future__ import annotations

from msgspec import Struct, field

from plugengine.errors import ImageError

BLOCK = 512
_NS_PER_SECOND = 1_000_000_000

# struct posix_header and oldgnu_header, tar.h of GNU tar
_NAME, _MODE, _UID, _GID = slice(0, 100), slice(100, 108), slice(108, 116), slice(116, 124)
_SIZE, _MTIME, _CHECKSUM, _TYPE = slice(124, 136), slice(136, 148), slice(148, 156), slice(156, 157)
_LINK, _MAGIC, _MAJOR, _MINOR = slice(157, 257), slice(257, 263), slice(329, 337), slice(337, 345)
_PREFIX = slice(345, 500)
_USTAR = b"ustar\0"
_OCTAL = frozenset(b"01234567")
_BASE_256 = 0x80
_BASE_256_NEGATIVE = 0xFF
_ID_VALUES = 1 << 32


class Entry(Struct):
    """One entry; names are bytes as stored."""

    name: bytes
    type: bytes  # "0" regular, "1" hard link, "2" symlink, "3" character, "4" block, "5" directory, "6" FIFO
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0  # of the file when unpacked
    stored: int = 0  # of its data in the archive
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    extents: list[tuple[int, int]] | None = None  # (offset, length) of the data in a sparse file


def parse_block(block: bytes, what: str) -> Entry:
    """Parse a header block. Raises: ImageError when its checksum or a number is wrong."""
    _check(block, what)
    name = _text(block[_NAME])
    posix = block[_MAGIC] == _USTAR
    if posix and block[_PREFIX.start]:
        name = _text(block[_PREFIX]) + b"/" + name
    kind = block[_TYPE]
    devices = kind in (b"3", b"4")
    return Entry(
        name=name,
        type=kind,
        mode=number(block[_MODE], what) & 0o7777,
        uid=unsigned_id(number(block[_UID], what)),
        gid=unsigned_id(number(block[_GID], what)),
        size=_not_negative(number(block[_SIZE], what), what),
        mtime_ns=number(block[_MTIME], what) * _NS_PER_SECOND,
        link=_text(block[_LINK]),
        major=number(block[_MAJOR], what) if devices else 0,
        minor=number(block[_MINOR], what) if devices else 0,
    )


def number(field_: bytes, what: str) -> int:
    """Parse a number: octal digits, or base 256 when the first bit is set."""
    if field_[0] & _BASE_256:
        if field_[0] == _BASE_256_NEGATIVE:
            return int.from_bytes(field_, "big", signed=True)
        return int.from_bytes(field_, "big") & ~(_BASE_256 << 8 * (len(field_) - 1))
    digits = field_.strip(b" \0").partition(b"\0")[0]
    if not _OCTAL.issuperset(digits):
        raise ImageError(f"{what}: not a tar archive, or a damaged one: {digits!r} is no octal number")
    return int(digits, 8) if digits else 0


def unsigned_id(value: int) -> int:
    """Return an owner as chown(2) takes it: without a sign, so that -2, some systems' nobody, is 4294967294."""
    return value + _ID_VALUES if -_ID_VALUES // 2 <= value < 0 else value


def _check(block: bytes, what: str) -> None:
    said = number(block[_CHECKSUM], what)
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    unsigned = sum(rest)
    # Some old tars summed signed characters.
    if said != unsigned and said != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise ImageError(f"{what}: not a tar archive, or a damaged one: wrong header checksum")


def _not_negative(size: int, what: str) -> int:
    if size < 0:
        raise ImageError(f"{what}: damaged header: negative size")
    return size


def _text(field_: bytes) -> bytes:
    return field_.partition(b"\0")[0]
