"""PAX records, and the four ways in which tar says that a file has holes; see "Extensions" in the GNU tar manual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.images.layers.paths import shown
from plugengine.images.tar.entry import BLOCK, Entry, number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plugengine.images.tar.limits import Caps

_NS_DIGITS = 9
_NS_PER_SECOND = 1_000_000_000
_MAX_DIGITS = 20
_XATTR = b"SCHILY.xattr."
_GNU_SPARSE = b"GNU.sparse."

# oldgnu_header and sparse_header, tar.h of GNU tar
_SPARSE_AT, _SPARSE_COUNT, _SPARSE_EXTENDED_AT, _REAL_SIZE = 386, 4, 482, slice(483, 495)
_MORE_COUNT, _MORE_EXTENDED_AT = 21, 504
_SPARSE_STRUCT, _SPARSE_NUMBER = 24, 12


def parse_records(content: bytes, what: str) -> list[tuple[bytes, bytes]]:
    r"""Parse "length key=value\n" records, in order; the same key may come again."""
    records = []
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + _MAX_DIGITS + 1)
        length = _decimal(content[at:space] if space > 0 else b"", what)
        end = at + length
        if end > len(content) or end <= space + 1 or content[end - 1 : end] != b"\n":
            raise ImageError(f"{what}: damaged PAX header")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise ImageError(f"{what}: damaged PAX header")
        records.append((key, value))
        at = end
    return records


def apply_records(entry: Entry, records: Sequence[tuple[bytes, bytes]], what: str) -> None:
    """Let the records override the header; unknown keys mean nothing to a file system."""
    for key, value in records:
        if key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
        elif key in _SETTERS and value:  # an empty value takes back what a global header said, pax(1)
            _SETTERS[key](entry, value, what)
    for key, value in records:
        if key == b"GNU.sparse.name" and value:
            entry.name = value  # "path" is a made-up name then, for tars that do not know of holes
    if b"\0" in entry.name or b"\0" in entry.link:
        raise ImageError(f"{what}: a name holds a NUL byte")


def _set_path(entry: Entry, value: bytes, _what: str) -> None:
    entry.name = value


def _set_link(entry: Entry, value: bytes, _what: str) -> None:
    entry.link = value


def _set_size(entry: Entry, value: bytes, what: str) -> None:
    entry.size = _decimal(value, what)


def _set_uid(entry: Entry, value: bytes, what: str) -> None:
    entry.uid = _decimal(value, what)


def _set_gid(entry: Entry, value: bytes, what: str) -> None:
    entry.gid = _decimal(value, what)


def _set_mtime(entry: Entry, value: bytes, what: str) -> None:
    entry.mtime_ns = _time_ns(value, what)


_SETTERS = {
    b"path": _set_path,
    b"linkpath": _set_link,
    b"size": _set_size,
    b"uid": _set_uid,
    b"gid": _set_gid,
    b"mtime": _set_mtime,
}


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise ImageError(f"{what}: damaged PAX header: {value[:40]!r} is no number")
    return int(value)


def _time_ns(value: bytes, what: str) -> int:
    """Parse seconds with a fraction, without the rounding of floats."""
    negative = value.startswith(b"-")
    seconds, _, fraction = value.lstrip(b"-").partition(b".")
    ns: int = _decimal(seconds or b"0", what) * _NS_PER_SECOND
    if fraction:
        ns += _decimal(fraction[:_NS_DIGITS].ljust(_NS_DIGITS, b"0"), what)
    return -ns if negative else ns


# --- sparse files ------------------------------------------------------------------------------------------


def read_sparse(
    entry: Entry,
    last: dict[bytes, bytes],
    records: Sequence[tuple[bytes, bytes]],
    take: Callable[[int], bytes],
    caps: Caps,
    what: str,
) -> None:
    """Read the map of a sparse file in one of the PAX formats 0.0, 0.1 and 1.0; nothing for other files."""
    if not any(key.startswith(_GNU_SPARSE) for key in last):
        return
    if last.get(b"GNU.sparse.major") == b"1":
        extents = _map_in_data(entry, take, caps, what)
    elif b"GNU.sparse.map" in last:
        extents = _pairs([_decimal(part, what) for part in last[b"GNU.sparse.map"].split(b",") if part], what)
    else:
        wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        extents = _pairs([_decimal(value, what) for key, value in records if key in wanted], what)
    size = last.get(b"GNU.sparse.realsize") or last.get(b"GNU.sparse.size")
    if size is None:
        raise ImageError(f"{what}: sparse file {shown(entry.name)} has no size")
    entry.size = _decimal(size, what)
    entry.extents = _checked(extents, entry, caps, what)


def read_old_sparse(entry: Entry, block: bytes, exactly: Callable[[int], bytes], caps: Caps, what: str) -> None:
    """Read the map of GNU tar's own format: four pairs in the header, more in blocks behind it."""
    numbers = _struct_numbers(block, _SPARSE_AT, _SPARSE_COUNT, what)
    extended = block[_SPARSE_EXTENDED_AT]
    while extended:
        more = exactly(BLOCK)
        numbers += _struct_numbers(more, 0, _MORE_COUNT, what)
        extended = more[_MORE_EXTENDED_AT]
        if len(numbers) > 2 * caps.extents:
            raise ImageError(f"{what}: sparse file {shown(entry.name)}: too many holes")
    entry.size = number(block[_REAL_SIZE], what)
    entry.extents = _checked(_pairs(numbers, what), entry, caps, what)


def _struct_numbers(block: bytes, at: int, count: int, what: str) -> list[int]:
    numbers = []
    for start in range(at, at + count * _SPARSE_STRUCT, _SPARSE_STRUCT):
        if not block[start]:
            break  # unused
        numbers.append(number(block[start : start + _SPARSE_NUMBER], what))
        numbers.append(number(block[start + _SPARSE_NUMBER : start + _SPARSE_STRUCT], what))
    return numbers


def _map_in_data(entry: Entry, take: Callable[[int], bytes], caps: Caps, what: str) -> list[tuple[int, int]]:
    """Format 1.0: decimal numbers, one a line, before the data, padded to a block."""
    buffer = b""
    taken = 0
    numbers: list[int] = []
    wanted = 1
    while len(numbers) < wanted:
        line, newline, rest = buffer.partition(b"\n")
        if not newline:
            if len(buffer) > _MAX_DIGITS:
                raise ImageError(f"{what}: sparse file {shown(entry.name)}: damaged map")
            buffer += take(BLOCK)
            taken += BLOCK
            continue
        numbers.append(_decimal(line, what))
        buffer = rest
        if len(numbers) == 1:
            if numbers[0] > caps.extents:
                raise ImageError(f"{what}: sparse file {shown(entry.name)}: too many holes")
            wanted = 1 + 2 * numbers[0]
    entry.stored -= taken
    return _pairs(numbers[1:], what)


def _pairs(numbers: list[int], what: str) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise ImageError(f"{what}: damaged sparse map")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _checked(extents: list[tuple[int, int]], entry: Entry, caps: Caps, what: str) -> list[tuple[int, int]]:
    """Make sure that the extents are in order, inside the file, and as long as the data."""
    end = 0
    for offset, length in extents:
        if offset < end or length < 0 or offset + length > entry.size:
            raise ImageError(f"{what}: sparse file {shown(entry.name)}: extents overlap or leave the file")
        end = offset + length
    if len(extents) > caps.extents or sum(length for _, length in extents) != entry.stored:
        raise ImageError(f"{what}: sparse file {shown(entry.name)}: its map does not fit its data")
    return extents
