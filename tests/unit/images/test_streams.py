"""Compressed streams: every kind read through, damage and bombs refused, memory bounded."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.errors import ImageError
from plugengine.images.tar.compression import CHUNK, Measured, Unpacked
from plugengine.images.tar.limits import Caps
from tests.unit.images.tars import refusal_of, zstd

Compress = Callable[[bytes], bytes]

CONTENT = b"".join(b"line %d of some text\n" % number for number in range(60_000))
KINDS: dict[str, Compress] = {
    "none": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstd.compress,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}
COMPRESSED = [kind for kind in KINDS if kind != "none"]


class OneByteReads(io.BytesIO):
    """A pipe at its worst."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(1 if size else 0)


def read_all(source: io.BytesIO, **caps: int) -> bytes:
    reader = Unpacked(source, caps=Caps(**caps))
    parts = []
    while part := reader.read(CHUNK):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_compression_is_recognised_and_read(kind: str) -> None:
    packed = KINDS[kind](CONTENT)
    reader = Unpacked(io.BytesIO(packed))
    assert reader.compression == kind
    assert read_all(io.BytesIO(packed)) == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_gives_one_byte_at_a_time_is_read(kind: str) -> None:
    assert read_all(OneByteReads(KINDS[kind](CONTENT[:5000]))) == CONTENT[:5000]


@pytest.mark.parametrize("kind", COMPRESSED)
def test_several_streams_one_after_another_are_one(kind: str) -> None:
    packed = KINDS[kind](b"first ") + KINDS[kind](b"second")
    assert read_all(io.BytesIO(packed)) == b"first second"


def test_frames_that_zstd_skips_are_skipped_wherever_they_are() -> None:
    skipped = struct.pack("<II", 0x184D2A50, 10) + b"x" * 10  # RFC 8878, 3.1.2
    packed = KINDS["zstd"](b"hello ")
    assert read_all(io.BytesIO(skipped + packed + skipped + packed + skipped)) == b"hello hello "


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_zero_padding_after_the_stream_is_ignored(kind: str) -> None:
    assert read_all(io.BytesIO(KINDS[kind](b"x") + b"\0" * 4096)) == b"x"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz"])
def test_garbage_after_the_stream_is_refused(kind: str) -> None:
    with pytest.raises(ImageError):
        read_all(io.BytesIO(KINDS[kind](b"x") + b"#!/bin/sh\nthis is no part of it\n"))


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("part", [0.2, 0.5, 0.999])
def test_a_truncated_stream_is_refused(kind: str, part: float) -> None:
    packed = KINDS[kind](CONTENT)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        read_all(io.BytesIO(packed[: int(len(packed) * part)]))


def test_a_zstd_frame_cut_between_two_blocks_is_refused() -> None:
    compressor = zstd.ZstdCompressor()
    blocks = [compressor.compress(CONTENT[:1000], mode=zstd.ZstdCompressor.FLUSH_BLOCK) for _ in range(3)]
    for count in range(1, 4):
        with pytest.raises(ImageError, match="truncated zstd data"):
            read_all(io.BytesIO(b"".join(blocks[:count])))
    assert read_all(io.BytesIO(b"".join(blocks) + compressor.flush())) == CONTENT[:1000] * 3


def test_a_zstd_window_larger_than_ours_is_refused() -> None:
    compressor = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): 28})
    packed = compressor.compress(b"x") + compressor.flush()
    with pytest.raises(ImageError, match="damaged zstd data"):
        read_all(io.BytesIO(packed))


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_flipped_bit_is_refused(kind: str) -> None:
    checked = {int(zstd.CompressionParameter.checksum_flag): 1}
    packed = bytearray(zstd.compress(CONTENT, options=checked) if kind == "zstd" else KINDS[kind](CONTENT))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(ImageError):
        read_all(io.BytesIO(bytes(packed)))


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_bomb_is_stopped_by_its_ratio_and_never_held_in_memory(kind: str) -> None:
    bomb = io.BytesIO(KINDS[kind](bytes(64 << 20)))
    tracemalloc.start()
    reader = Unpacked(bomb, caps=Caps(ratio=100, ratio_from_bytes=8 << 20))
    with pytest.raises(ImageError, match="times its size") as caught:
        Measured(reader, hashed=False).drain()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert caught.value.hint == "this looks like a bomb"


def test_a_stream_is_stopped_at_its_byte_limit() -> None:
    with pytest.raises(ImageError, match="more than 1000 bytes"):
        read_all(io.BytesIO(gzip.compress(CONTENT)), bytes=1000)


def test_what_is_measured_is_counted_and_hashed_and_limited() -> None:
    seen: list[int] = []
    measured = Measured(io.BytesIO(CONTENT), progress=seen.append)
    measured.drain()
    assert measured.digest == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert measured.count == len(CONTENT) == sum(seen)
    with pytest.raises(ImageError, match="blob: more than 10 bytes"):
        Measured(io.BytesIO(CONTENT), what="blob", limit=10).drain()


@given(st.binary(max_size=200))
def test_any_bytes_end_in_bytes_or_in_a_clear_error(data: bytes) -> None:
    refusal = refusal_of(lambda: read_all(io.BytesIO(data)))
    assert refusal is None or refusal.startswith("stream: ")


@given(st.sampled_from(COMPRESSED), st.binary(max_size=60), st.integers(0, 60), st.integers(1, 255))
def test_any_damage_ends_in_bytes_or_in_a_clear_error(kind: str, content: bytes, at: int, flip: int) -> None:
    packed = bytearray(KINDS[kind](content))
    packed[at % len(packed)] ^= flip
    refusal = refusal_of(lambda: read_all(io.BytesIO(bytes(packed))))
    assert refusal is None or refusal.startswith("stream: ")
