"""Requests are looked out for where they come one after the other, and slept for where they do not."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator

import pytest
from plugengine_fuse_union import incoming

PROCESSORS = os.sched_getaffinity(0)


class Looks:
    """Counts how often one goes to look."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.begun = 0

    def __iter__(self) -> Iterator[int]:
        self.begun += 1
        return iter(range(self.times))


class Reader:
    """Reads requests of one byte from a pipe in a thread, and notes whether each was found without sleeping."""

    def __init__(self) -> None:
        self.fd, self.end = os.pipe()
        self.found: list[bool] = []
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        with mmap.mmap(-1, 4096) as buffer:
            for length in incoming.requests(self.fd, memoryview(buffer)[:1]):
                if not length:  # the other end is closed
                    return
                self.found.append(not os.get_blocking(self.fd))

    def start(self) -> None:
        self._thread.start()

    def send(self) -> None:
        """Send one and wait until it has been read."""
        expected = len(self.found) + 1
        os.write(self.end, b"x")
        while len(self.found) < expected:
            time.sleep(0)

    def stop(self) -> None:
        os.close(self.end)
        self._thread.join()
        os.close(self.fd)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.stop()


several = pytest.mark.skipif(len(PROCESSORS) < 2, reason="needs two processors")  # looks are for others to arrive


@several
def test_what_waits_already_is_read_without_sleeping(reader: Reader) -> None:
    os.write(reader.end, bytes(500))
    reader.start()
    while len(reader.found) < 500:
        time.sleep(0.001)
    assert all(reader.found)


@several
def test_who_asks_seldom_is_slept_for_and_looked_out_for_ever_less(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(3)
    monkeypatch.setattr(incoming, "_LOOKS", looks)
    reader.start()
    for _ in range(70):
        while not os.get_blocking(reader.fd):  # it looks still
            time.sleep(0.001)
        reader.send()
    # After 1, 2, 4 … requests it looks once more.
    assert 5 <= looks.begun <= 8


@several
def test_who_asks_at_once_again_is_soon_looked_out_for(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "_LOOKS", range(1_000_000))
    reader.start()
    for _ in range(50):
        reader.send()
    assert sum(reader.found) >= 45


def test_on_one_processor_it_always_sleeps(reader: Reader) -> None:
    os.sched_setaffinity(0, {min(PROCESSORS)})
    try:
        reader.start()  # the thread inherits it
        for _ in range(20):
            reader.send()
    finally:
        os.sched_setaffinity(0, PROCESSORS)
    assert not any(reader.found)
