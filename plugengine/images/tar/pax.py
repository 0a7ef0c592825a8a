"""PAX records, and the four ways in which tar says that a file has holes; see "Extensions" in the GNU tar manual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from plugengine.errors import ImageError
from plugengine.images.layers.paths import shown
from plugengine.images.tar.entry import BLOCK, Entry, number, unsigned_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugengine.images.tar.limits import Caps

TOO_MANY_RECORDS = "too many records in extended headers"
_NS_DIGITS = 9
_NS_PER_SECOND = 1_000_000_000
_MAX_DIGITS = 20
_XATTR = b"SCHILY.xattr."
_GNU_SPARSE = b"GNU.sparse."

# oldgnu_header and sparse_header, tar.h of GNU tar
_SPARSE_AT, _SPARSE_COUNT, _SPARSE_EXTENDED_AT, _REAL_SIZE = 386, 4, 482, slice(483, 495)
_MORE_COUNT, _MORE_EXTENDED_AT = 21, 504
_SPARSE_STRUCT, _SPARSE_NUMBER = 24, 12


class Extended:
    """What extended headers say of one entry, or, global ones, of every entry that follows.

    Only what means something to a file system is kept, read once.

    Args:
        what: Names the archive in errors.
        general: What global headers said before; records of this entry come on top.
    """

    __slots__ = ("_what", "sparse", "sparse_map", "values", "xattrs")

    def __init__(self, what: str, general: Extended | None = None) -> None:
        self._what = what
        self.values: dict[str, Any] = dict(general.values) if general else {}  # by member of Entry
        self.xattrs: dict[bytes, bytes] = dict(general.xattrs) if general else {}
        self.sparse: dict[bytes, bytes] = {}
        self.sparse_map: list[int] = []  # format 0.0: an offset and a length in turns

    def __bool__(self) -> bool:
        return bool(self.values or self.xattrs or self.sparse)

    def add(self, content: bytes, limit: int) -> int:
        """Take in the records of one header; of two with the same key the later counts.

        Returns:
            How many records there were.

        Raises:
            ImageError: The header is damaged, or has more than `limit` records.
        """
        count = 0
        for count, (key, value) in enumerate(parse_records(content, self._what), 1):
            if count > limit:
                raise ImageError(f"{self._what}: {TOO_MANY_RECORDS}", hint="this looks like a bomb")
            if key in _READERS:
                member, read = _READERS[key]
                if value:
                    self.values[member] = read(value, self._what)
                else:
                    self.values.pop(member, None)  # removes what a global header set, pax(1)
            elif key.startswith(_XATTR):
                self.xattrs[key[len(_XATTR) :]] = value
            elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self.sparse[key] = value
                self.sparse_map.append(_decimal(value, self._what))
            elif key.startswith(_GNU_SPARSE):
                self.sparse[key] = value
        return count

    def bytes_kept(self) -> int:
        """Return how much is repeated for every entry: names and values of what is kept."""
        texts = [value for value in self.values.values() if isinstance(value, bytes)]
        return sum(map(len, (*texts, *self.xattrs, *self.xattrs.values())))

    def override(self, entry: Entry) -> None:
        """Let the records override the entry's header."""
        for member, value in self.values.items():
            setattr(entry, member, value)
        entry.xattrs.update(self.xattrs)
        # "path" is a made-up name then, for tars that do not know of holes
        entry.name = self.sparse.get(b"GNU.sparse.name") or entry.name


def parse_records(content: bytes, what: str) -> Iterator[tuple[bytes, bytes]]:
    r"""Parse "length key=value\n" records, in order; the same key may come again."""
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
        yield key, value
        at = end


def _text(value: bytes, _what: str) -> bytes:
    return value


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise ImageError(f"{what}: damaged PAX header: {value[:40]!r} is no number")
    return int(value)


def _id(value: bytes, what: str) -> int:
    """Parse an owner; some tars write nobody as -2."""
    return unsigned_id(-_decimal(value[1:], what) if value.startswith(b"-") else _decimal(value, what))


def _time_ns(value: bytes, what: str) -> int:
    """Parse seconds with a fraction, without the rounding of floats."""
    negative = value.startswith(b"-")
    seconds, _, fraction = value.lstrip(b"-").partition(b".")
    ns: int = _decimal(seconds or b"0", what) * _NS_PER_SECOND
    if fraction:
        ns += _decimal(fraction[:_NS_DIGITS].ljust(_NS_DIGITS, b"0"), what)
    return -ns if negative else ns


# Keyword: the member of Entry it overrides, and how its value is read; pax(1), "pax Extended Header Keywords"
_READERS: Mapping[bytes, tuple[str, Callable[[bytes, str], Any]]] = {
    b"path": ("name", _text),
    b"linkpath": ("link", _text),
    b"size": ("size", _decimal),
    b"uid": ("uid", _id),
    b"gid": ("gid", _id),
    b"mtime": ("mtime_ns", _time_ns),
}


# --- sparse files ------------------------------------------------------------------------------------------


def read_sparse(entry: Entry, said: Extended, take: Callable[[int], bytes], caps: Caps, what: str) -> None:
    """Read the map of a sparse file in one of the PAX formats 0.0, 0.1 and 1.0; nothing for other files."""
    last = said.sparse
    if not last:
        return
    if last.get(b"GNU.sparse.major") == b"1":
        extents = _map_in_data(entry, take, caps, what)
    elif b"GNU.sparse.map" in last:
        extents = _pairs([_decimal(part, what) for part in last[b"GNU.sparse.map"].split(b",") if part], what)
    else:
        extents = _pairs(said.sparse_map, what)
    size = last.get(b"GNU.sparse.realsize") or last.get(b"GNU.sparse.size")
    if size is None:
        raise ImageError(f"{what}: sparse file {shown(entry.name)} has no size")
    entry.size = _decimal(size, what)
    entry.extents = _checked(extents, entry, caps, what)


def read_old_sparse(entry: Entry, block: bytes, exactly: Callable[[int], bytes], caps: Caps, what: str) -> None:
    """Read the map of GNU tar's own format: four pairs in the header, more in the blocks after it."""
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
