"""Write tar headers of one fixed form: ustar, with PAX records only for what ustar cannot say; see pax(1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 512
END = b"\0" * (2 * BLOCK)
_RECORD = 10_240  # tar(1) pads to this; some readers complain otherwise

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, PAX = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"x",
)  # fmt: skip

_NAME_BYTES = 100
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_NS_PER_SECOND = 1_000_000_000
_CHECKSUM_AT = slice(148, 156)


class Header(Struct, frozen=True, kw_only=True):
    """One entry to be written."""

    name: bytes
    type: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


def encode_header(header: Header) -> bytes:
    """Return the blocks of one entry's header; pure, and the same for the same entry."""
    records = _pax_records(header)
    head = b""
    if records:
        body = b"".join(_pax_record(key, value) for key, value in records)
        head = _ustar(Header(name=b"././@PaxHeader", type=PAX, mode=0o644, size=len(body))) + body + padding(len(body))
    return head + _ustar(header)


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of `size` bytes."""
    return b"\0" * (-size % BLOCK)


def ending(size: int) -> bytes:
    """Return the end marker of an archive that has `size` bytes without it."""
    return END + b"\0" * (-(size + len(END)) % _RECORD)


def _pax_records(header: Header) -> list[tuple[bytes, bytes]]:
    records: list[tuple[bytes, bytes]] = []
    if len(header.name) > _NAME_BYTES:
        records.append((b"path", header.name))
    if len(header.link) > _NAME_BYTES:
        records.append((b"linkpath", header.link))
    if header.size > _MAX_SIZE:
        records.append((b"size", b"%d" % header.size))
    records += [
        (key, b"%d" % number) for key, number in ((b"uid", header.uid), (b"gid", header.gid)) if number > _MAX_ID
    ]
    seconds, ns = divmod(header.mtime_ns, _NS_PER_SECOND)
    if ns or not 0 <= seconds <= _MAX_SIZE:
        records.append((b"mtime", _decimal(header.mtime_ns)))
    records += [(b"SCHILY.xattr." + key, value) for key, value in sorted(header.xattrs.items())]
    return records


def _decimal(time_ns: int) -> bytes:
    sign = b"-" if time_ns < 0 else b""
    seconds, ns = divmod(abs(time_ns), _NS_PER_SECOND)
    fraction = b".%09d" % ns if ns else b""
    return sign + b"%d" % seconds + fraction.rstrip(b"0")


def _pax_record(key: bytes, value: bytes) -> bytes:
    r"""Return "length key=value\n", where the length counts itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _ustar(header: Header) -> bytes:
    seconds = header.mtime_ns // _NS_PER_SECOND
    block = bytearray(
        b"".join(
            (
                header.name[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
                b"%07o\0" % (header.mode & 0o7777),
                b"%07o\0" % (header.uid if header.uid <= _MAX_ID else 0),
                b"%07o\0" % (header.gid if header.gid <= _MAX_ID else 0),
                b"%011o\0" % (header.size if header.size <= _MAX_SIZE else 0),
                b"%011o\0" % (seconds if 0 <= seconds <= _MAX_SIZE else 0),
                b" " * 8,
                header.type,
                header.link[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
                b"ustar\x0000",
                b"\0" * 64,  # user and group names: numbers alone count
                b"%07o\0" % header.major,
                b"%07o\0" % header.minor,
            )
        ).ljust(BLOCK, b"\0")
    )
    block[_CHECKSUM_AT] = b"%06o\0 " % sum(block)
    return bytes(block)
