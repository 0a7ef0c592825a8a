"""The log of a container: what is written to it, and read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.model import HostPath
from plugengine.streams.logs import PARTIAL_BYTES, LogWriter, read_lines

Log = Callable[[Iterable[bytes]], list[str]]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Return what is read of a log after these writes."""

    def write_and_read(chunks: Iterable[bytes]) -> list[str]:
        path = HostPath(str(tmp_path / "log"))
        Path(path).unlink(missing_ok=True)
        writer = LogWriter(path)
        for chunk in chunks:
            writer.write("stdout", chunk)
        writer.close()
        return [line.log for line in read_lines(path)]

    return write_and_read


def test_lines_come_back_however_they_were_written(log: Log) -> None:
    assert log([b"one\ntw", b"o\n", b"", b"\nrest"]) == ["one\n", "two\n", "\n", "rest"]


@pytest.mark.parametrize("chunk", [1000, 4096, 65536])
def test_a_long_line_is_logged_in_pieces_whatever_the_writes_were(log: Log, chunk: int) -> None:
    line = b"x" * (2 * PARTIAL_BYTES + 10) + b"\n"
    chunks = [line[start : start + chunk] for start in range(0, len(line), chunk)]
    assert [len(piece) for piece in log(chunks)] == [PARTIAL_BYTES, PARTIAL_BYTES, 11]


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("chunk", [PARTIAL_BYTES, PARTIAL_BYTES + 1, 65536])
def test_a_long_line_is_not_cut_inside_a_character(log: Log, character: str, shift: int, chunk: int) -> None:
    text = "." * shift + character * PARTIAL_BYTES + "\n"
    raw = text.encode()
    pieces = log(raw[start : start + chunk] for start in range(0, len(raw), chunk))
    assert "".join(pieces) == text
    assert all(PARTIAL_BYTES - 4 < len(piece.encode()) <= PARTIAL_BYTES for piece in pieces[:-1])


def test_a_long_line_that_is_no_text_is_cut_all_the_same(log: Log) -> None:
    assert [len(piece) for piece in log([b"\x80" * (PARTIAL_BYTES + 5)])] == [PARTIAL_BYTES, 5]


@given(st.lists(st.binary(max_size=40)))
def test_no_byte_is_lost_between_pieces(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = HostPath(str(tmp_path_factory.mktemp("log") / "log"))
    writer = LogWriter(path)
    for chunk in chunks:
        writer.write("stdout", chunk)
    writer.close()
    expected = b"".join(chunks).split(b"\n")
    lines = [*(line + b"\n" for line in expected[:-1]), *filter(None, expected[-1:])]
    assert [line.log for line in read_lines(path)] == [line.decode("utf-8", "replace") for line in lines]
