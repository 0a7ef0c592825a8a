"""The log of a container: what is written to it, and read back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugengine.model import HostPath
from plugengine.streams.logs import PARTIAL_BYTES, LogFollower, LogWriter, read_lines, start_of_tail
from tests.waiting import PATIENCE_S

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


@pytest.mark.parametrize("size", [1, 3, 70_000])
@pytest.mark.parametrize("rest", [b"", b"unfinished"])
def test_the_last_lines_are_found_from_the_end(tmp_path: Path, size: int, rest: bytes) -> None:
    lines = [b"%d" % number * size + b"\n" for number in range(1, 6)]
    (tmp_path / "log").write_bytes(b"".join(lines) + rest)
    with (tmp_path / "log").open("rb") as stream:
        for count in range(8):
            stream.seek(start_of_tail(stream, count))
            assert stream.read() == b"".join(lines[max(0, 5 - count) :]) + rest


def test_a_follower_yields_each_line_once_and_whole_lines_only(tmp_path: Path) -> None:
    path = HostPath(str(tmp_path / "log"))
    follower = LogFollower(path, tail=None)
    assert list(follower.lines()) == []
    writer = LogWriter(path)
    writer.write("stdout", b"one\ntwo\n")
    assert [line.log for line in follower.lines()] == ["one\n", "two\n"]
    whole = Path(path).read_bytes().splitlines(keepends=True)[0]
    with Path(path).open("ab") as stream:
        stream.write(whole[:20])
        stream.flush()
        assert list(follower.lines()) == []
        stream.write(whole[20:])
    assert [line.log for line in follower.lines()] == ["one\n"]
    writer.close()
    follower.close()


def test_a_follower_wakes_when_something_is_added(tmp_path: Path) -> None:
    path = HostPath(str(tmp_path / "log"))
    follower = LogFollower(path, tail=0)
    follower.wait(PATIENCE_S)  # begins to watch
    timer = threading.Timer(0.1, LogWriter(path).write, ("stdout", b"late\n"))
    timer.start()
    begun = time.monotonic()
    seen: list[str] = []
    while not seen and time.monotonic() - begun < 30:
        follower.wait(PATIENCE_S)
        seen = [line.log for line in follower.lines()]
    assert seen == ["late\n"]
    assert time.monotonic() - begun < 30
    follower.close()


def test_a_long_log_is_read_in_little_memory(tmp_path: Path) -> None:
    path = HostPath(str(tmp_path / "log"))
    line = b'{"log":"%s\\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}\n' % (b"x" * 1000)
    with Path(path).open("wb") as stream:
        for _ in range(64):
            stream.write(line * 1000)
    program = (
        "import resource, sys; from plugengine.streams.logs import LogFollower;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "count = sum(1 for _ in LogFollower(sys.argv[1], tail=None).lines());"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    count, grown_kib = map(int, done.stdout.split())
    assert count == 64_000
    assert grown_kib < 8192
