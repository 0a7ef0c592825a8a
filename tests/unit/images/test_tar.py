"""Tar headers: ours against those of the standard library, damage refused, everything bounded."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.errors import ImageError
from plugengine.images.tar.entry import Entry
from plugengine.images.tar.limits import Caps
from plugengine.images.tar.read import TarReader
from plugengine.images.tar.write import Header, encode_header, ending, padding
from tests.unit.images.tars import make_tar, member, refusal_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NS = 1_000_000_000


def read(data: bytes, **options: Any) -> list[tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(data), what="t.tar", **options)
    return [(entry, b"".join(reader.data())) for entry in reader]


def entries(data: bytes, **options: Any) -> list[Entry]:
    return [entry for entry, _ in read(data, **options)]


def records(*pairs: tuple[bytes, bytes]) -> bytes:
    """Return PAX records, their lengths counted by trial."""
    out = b""
    for key, value in pairs:
        rest = len(key) + len(value) + len(b" =\n")
        length = next(rest + digits for digits in range(1, 9) if len(str(rest + digits)) == digits)
        out += b"%d %s=%s\n" % (length, key, value)
    return out


def special(kind: bytes, body: bytes) -> bytes:
    return encode_header(Header(name=b"special", type=kind, size=len(body))) + body + padding(len(body))


def plain(name: bytes = b"f", content: bytes = b"", **attributes: Any) -> bytes:
    return encode_header(Header(name=name, size=len(content), **attributes)) + content + padding(len(content))


def finished(*parts: bytes) -> bytes:
    data = b"".join(parts)
    return data + ending(len(data))


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_standard_library_writes_is_read(form: str) -> None:
    data = make_tar(
        [
            member("dir", "directory", mode=0o1777, uid=1, gid=2, mtime=1_700_000_000),
            member("dir/file", content=b"x" * 1000, mode=0o4755),
            member("dir/sym", "symlink", linkname="../t"),
            member("dir/link", "link", linkname="dir/file"),
            member("dev", "character", devmajor=1, devminor=3),
            member("blk", "block", devmajor=259, devminor=70_000),
            member("pipe", "fifo"),
        ],
        form=FORMATS[form],
    )
    directory, file, symlink, link, character, block, fifo = read(data)
    assert (directory[0].name, directory[0].type, directory[0].mode) == (b"dir/", b"5", 0o1777)
    assert (directory[0].uid, directory[0].gid, directory[0].mtime_ns) == (1, 2, 1_700_000_000 * NS)
    assert (file[0].size, file[1], file[0].mode) == (1000, b"x" * 1000, 0o4755)
    assert (symlink[0].type, symlink[0].link) == (b"2", b"../t")
    assert (link[0].type, link[0].link) == (b"1", b"dir/file")
    assert (character[0].type, character[0].major, character[0].minor) == (b"3", 1, 3)
    assert (block[0].type, block[0].major, block[0].minor) == (b"4", 259, 70_000)
    assert fifo[0].type == b"6"


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_and_undecodable_names_are_read_as_bytes(form: str) -> None:
    name, link = "d/" * 100 + "ä\udcff" + "n" * 200, "t" * 300 + "\udcfe"
    data = make_tar([member(name), member("s", "symlink", linkname=link)], form=FORMATS[form])
    assert entries(data)[0].name == name.encode("utf-8", "surrogateescape")
    assert entries(data)[1].link == link.encode("utf-8", "surrogateescape")


def test_the_ustar_prefix_is_part_of_the_name() -> None:
    name = "p" * 120 + "/" + "n" * 90
    assert entries(make_tar([member(name)], form=tarfile.USTAR_FORMAT))[0].name == name.encode()


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_large_numbers_are_read(form: str) -> None:
    info, _ = member("f", uid=4_000_000_000, gid=3_000_000_000, mtime=10_000_000_000)
    entry = entries(make_tar([(info, b"")], form=FORMATS[form]))[0]
    assert (entry.uid, entry.gid, entry.mtime_ns) == (4_000_000_000, 3_000_000_000, 10_000_000_000 * NS)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1.5", 1_500_000_000),
        ("0.000000001", 1),
        ("1700000000.123456789999", 1_700_000_000_123_456_789),
        ("-1.25", -1_250_000_000),
        ("7", 7 * NS),
    ],
)
def test_times_keep_their_nanoseconds(text: str, ns: int) -> None:
    assert entries(make_tar([member("f", pax_headers={"mtime": text})]))[0].mtime_ns == ns


def test_extended_attributes_are_bytes() -> None:
    body = records((b"SCHILY.xattr.security.capability", b"\x01\0\0\x02=\n\xff"), (b"SCHILY.xattr.user.a", b""))
    entry = entries(finished(special(b"x", body), plain()))[0]
    assert entry.xattrs == {b"security.capability": b"\x01\0\0\x02=\n\xff", b"user.a": b""}


def test_a_global_header_holds_until_an_entry_says_otherwise() -> None:
    body = records((b"uid", b"7"), (b"comment", b"from git archive"))
    data = finished(special(b"g", body), plain(b"a"), special(b"x", records((b"uid", b"8"))), plain(b"b"))
    assert [(entry.name, entry.uid) for entry in entries(data)] == [(b"a", 7), (b"b", 8)]


def test_an_empty_record_takes_back_what_a_global_header_said() -> None:
    data = finished(
        special(b"g", records((b"uid", b"7"), (b"gid", b"8"))), special(b"x", records((b"uid", b""))), plain(b"a"),
        plain(b"b"),
    )  # fmt: skip
    assert [(entry.uid, entry.gid) for entry in entries(data)] == [(0, 8), (7, 8)]


NOBODY = 4_294_967_294


def test_an_owner_below_zero_is_what_the_kernel_makes_of_it() -> None:
    block = bytearray(plain(b"f"))
    block[108:116] = block[116:124] = (-2).to_bytes(8, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    in_pax = special(b"x", records((b"uid", b"-2"), (b"gid", b"-2"))) + plain(b"f")
    for tar in (bytes(block), in_pax):
        [entry] = entries(finished(tar))
        assert (entry.uid, entry.gid) == (NOBODY, NOBODY)


def test_a_directory_of_old_is_a_file_whose_name_ends_in_a_slash() -> None:
    assert entries(finished(plain(b"old/")))[0].type == b"5"


def test_a_link_has_no_data_whatever_its_size_says() -> None:
    data = finished(encode_header(Header(name=b"l", type=b"1", link=b"t", size=512)), plain(b"next"))
    assert [entry.name for entry in entries(data)] == [b"l", b"next"]


def test_checksums_of_signed_characters_are_accepted() -> None:
    block = bytearray(plain(b"\xe4"))
    block[148:156] = b" " * 8
    signed = sum(struct.unpack("512b", bytes(block)))
    block[148:156] = b"%06o\0 " % signed
    assert entries(finished(bytes(block)))[0].name == b"\xe4"


# --- sparse files ---


EXTENTS = [(4096, 5), (1 << 20, 3)]
HOLES = records(
    (b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.name", b"real"),
    (b"GNU.sparse.size", b"2097152"), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b"4096,5,1048576,3"),
)  # fmt: skip


def test_sparse_files_of_pax_0_1_are_read() -> None:
    [(entry, data)] = read(finished(special(b"x", HOLES), plain(b"GNUSparseFile.1/real", b"abcdefgh")))
    assert (entry.name, entry.size, entry.stored, entry.extents, data) == (b"real", 2 << 20, 8, EXTENTS, b"abcdefgh")


def test_sparse_files_of_pax_0_0_are_read() -> None:
    body = records(
        (b"GNU.sparse.size", b"2097152"), (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.offset", b"4096"), (b"GNU.sparse.numbytes", b"5"),
        (b"GNU.sparse.offset", b"1048576"), (b"GNU.sparse.numbytes", b"3"),
    )  # fmt: skip
    [(entry, data)] = read(finished(special(b"x", body), plain(b"real", b"abcdefgh")))
    assert (entry.size, entry.extents, data) == (2 << 20, EXTENTS, b"abcdefgh")


def test_sparse_files_of_pax_1_0_are_read() -> None:
    body = records(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"2097152"),
        (b"GNU.sparse.name", b"real"),
    )  # fmt: skip
    content = b"2\n4096\n5\n1048576\n3\n".ljust(512, b"\0") + b"abcdefgh"
    [(entry, data)] = read(finished(special(b"x", body), plain(b"GNUSparseFile.1/real", content)))
    assert (entry.name, entry.size, entry.stored, entry.extents, data) == (b"real", 2 << 20, 8, EXTENTS, b"abcdefgh")


@pytest.mark.parametrize(
    "holes",
    [b"4096,5,4098,3", b"4096,9", b"2097150,8", b"4096,5,1048576,3,5", b"4096,5,1048576,4", b"x,5"],
    ids=["overlap", "too short", "outside", "odd", "more than data", "no number"],
)
def test_a_map_that_does_not_fit_its_file_is_refused(holes: bytes) -> None:
    body = records((b"GNU.sparse.size", b"2097152"), (b"GNU.sparse.map", holes))
    with pytest.raises(ImageError, match=r"sparse|number"):
        read(finished(special(b"x", body), plain(b"f", b"abcdefgh")))


def test_a_map_of_endless_holes_is_refused() -> None:
    body = records((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"1"))
    with pytest.raises(ImageError, match="too many holes"):
        read(finished(special(b"x", body), plain(b"f", b"99999999\n".ljust(512, b"0"))))


# --- damage ---


def test_every_truncation_within_an_entry_is_noticed() -> None:
    parts = [
        plain(b"d/", mode=0o755),
        plain(b"d/f", b"x" * 700),
        special(b"x", records((b"path", b"n" * 200))) + plain(),
    ]
    data = b"".join(parts)
    complete = {len(b"".join(parts[:number])) for number in range(len(parts) + 1)}
    for length in {*range(0, len(data), 37), *range(0, len(data), 512)} - complete:
        with pytest.raises(ImageError, match=r"truncated|after an extended header"):
            read(data[:length])


def test_an_archive_may_end_without_the_end_marker() -> None:
    data = plain(b"f", b"x") + plain(b"g")
    assert [entry.name for entry in entries(data)] == [b"f", b"g"]
    assert [entry.name for entry in entries(data + bytes(512))] == [b"f", b"g"]
    assert entries(b"") == []


def test_garbage_behind_the_end_marker_is_refused() -> None:
    with pytest.raises(ImageError, match="garbage after the end marker"):
        read(finished(plain()) + plain(b"hidden"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is no tar at all".ljust(1024, b"!"), "not a tar archive"),
        (finished(plain()[:300] + b"Z" + plain()[301:]), "wrong header checksum"),
        (finished(encode_header(Header(name=b"f", type=b"Q"))), "unknown type"),
        (finished(special(b"x", b"5 a=b\n"), plain()), "damaged PAX header"),
        (finished(special(b"x", b"999 a=b\n"), plain()), "damaged PAX header"),
        (finished(special(b"x", b"no records"), plain()), "no number"),
        (finished(special(b"x", records((b"size", b"-1"))), plain()), "no number"),
        (finished(special(b"x", records((b"size", b"1" * 30))), plain()), "no number"),
        (finished(special(b"x", records((b"path", b"a\0b"))), plain()), "NUL"),
        (finished(special(b"x", records((b"path", b"a")))), "after an extended header"),
        (encode_header(Header(name=b"f", type=b"x", size=7 << 30)), "more than 1048576 bytes of extended headers"),
        (encode_header(Header(name=b"f", type=b"L", size=2 << 20)), "more than 1048576 bytes of extended headers"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_a_damaged_archive_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(data)


def test_more_entries_than_allowed_are_refused() -> None:
    data = make_tar(member(f"f{number}") for number in range(11))
    with pytest.raises(ImageError, match="more than 10 entries"):
        read(data, caps=Caps(entries=10))


COMMENT = records((b"comment", b"c" * (1 << 19)))
JUNK = b"6 a=b\n" * 100_000
MAP = b"0," * 200_000 + b"0,0"
ATTRIBUTES = records(*((b"SCHILY.xattr.user.%04d" % number, b"v") for number in range(500)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([special(b"x", COMMENT)] * 100, "more than 1048576 bytes of extended headers"),
        ([special(b"g", COMMENT)] * 100, "more than 1048576 bytes of extended headers"),
        ([special(b"L", b"n" * (1 << 19)), special(b"K", b"n" * (1 << 19))] * 50, "more than 1048576 bytes"),
        ([special(b"x", b"")] * 3000, "more than 1048576 bytes of extended headers"),
        ([special(b"V", b"")] * 3000, "more than 1048576 bytes of extended headers"),
        ([special(b"g", ATTRIBUTES), plain()], "global headers say more than 4096 bytes"),
        ([special(b"g", records((b"path", b"p" * 5000))), plain()], "global headers say more than 4096 bytes"),
        ([special(b"x", JUNK) + plain()] * 50, "too many records"),
        ([special(b"g", JUNK) + plain()] * 50, "too many records"),
        ([special(b"x", records((b"GNU.sparse.size", b"0"), (b"GNU.sparse.map", MAP))) + plain()] * 50, "too many rec"),
    ],
    ids=["x", "g", "long names", "empty x", "labels", "attributes", "path", "junk x", "junk g", "maps"],
)
def test_headers_that_cost_more_than_their_size_are_refused(data: list[bytes], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(finished(*data), caps=Caps(records=1 << 17))


def test_what_comes_before_one_entry_is_bounded_in_memory() -> None:
    whole = finished(*[special(b"x", COMMENT)] * 100)
    tracemalloc.start()
    with pytest.raises(ImageError, match="more than 1048576 bytes of extended headers"):
        read(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_of_global_headers_only_what_means_something_is_kept() -> None:
    data = [special(b"g", records((b"comment", b"c" * 9000))) + plain(b"f%d" % number) for number in range(20)]
    assert len(entries(finished(special(b"g", records((b"gid", b"5"))), *data))) == 20


@given(st.binary(max_size=1600))
def test_any_bytes_end_in_entries_or_in_a_clear_error(data: bytes) -> None:
    refusal = refusal_of(lambda: read(data))
    assert refusal is None or refusal.startswith("t.tar: ")


@given(st.integers(0, 5000), st.integers(1, 255))
def test_any_damaged_byte_ends_in_entries_or_in_a_clear_error(at: int, flip: int) -> None:
    data = bytearray(
        make_tar([member("n" * 150, content=b"x", pax_headers={"mtime": "1.5"}), member("d", "directory")])
    )
    data[at % len(data)] ^= flip
    refusal = refusal_of(lambda: read(bytes(data)))
    assert refusal is None or refusal.startswith("t.tar: ")


# --- writing ---

NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))


@given(
    name=NAMES,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 0xFFFFFFFE),
    gid=st.integers(0, 0xFFFFFFFE),
    mtime_ns=st.integers(-(1 << 60), 1 << 62),
    content=st.binary(max_size=1200),
    xattrs=st.dictionaries(
        st.from_regex(rb"\Auser\.[a-z%]{1,30}\Z", fullmatch=True), st.binary(max_size=100), max_size=3
    ),
)
def test_what_is_written_is_read_again(
    name: bytes, mode: int, uid: int, gid: int, mtime_ns: int, content: bytes, xattrs: dict[bytes, bytes]
) -> None:
    header = Header(
        name=name, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, size=len(content), xattrs=xattrs
    )  # fmt: skip
    [(entry, data)] = read(finished(encode_header(header) + content + padding(len(content))))
    assert (entry.name, entry.mode, entry.uid, entry.gid) == (name, mode, uid, gid)
    assert (entry.mtime_ns, data, entry.xattrs) == (mtime_ns, content, xattrs)


@given(NAMES, st.integers(0, 0xFFFFFFFE), st.integers(0, 1 << 34), NAMES)
def test_the_standard_library_reads_what_is_written(name: bytes, uid: int, seconds: int, link: bytes) -> None:
    header = Header(name=name, type=b"2", uid=uid, mtime_ns=seconds * NS, link=link)
    with tarfile.open(fileobj=io.BytesIO(finished(encode_header(header))), errors="surrogateescape") as tar:
        [info] = tar.getmembers()
    assert info.name.encode("utf-8", "surrogateescape") == name
    assert info.linkname.encode("utf-8", "surrogateescape") == link
    assert (info.uid, info.mtime) == (uid, seconds)
