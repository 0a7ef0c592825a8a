"""Count what a file server does, in memory that others can read while it serves (`pe_storage_stats`)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from struct import Struct
from typing import Final, TypeAlias

from plugengine_fuse_union.protocol import Opcode

# The first numbers are requests, by opcode; the highest opcode of a filesystem is far below.
MOST_OPCODES: Final = 128
READ_BYTES: Final = MOST_OPCODES  # served here, not by passthrough
WRITTEN_BYTES: Final = MOST_OPCODES + 1
PASSED_OPENS: Final = MOST_OPCODES + 2  # files that the kernel reads and writes by itself
KNOWN: Final = MOST_OPCODES + 3  # requests that needed no look at a disk
_NUMBERS: Final = Struct(f"={MOST_OPCODES + 4}Q")
_NO_ANSWER: Final = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)
_START_TIME: Final = 19  # field of proc_pid_stat(5), counted from the state

Counters: TypeAlias = "list[int] | memoryview[int]"


def private_counters() -> Counters:
    """Return counters nobody else reads."""
    return [0] * (_NUMBERS.size // 8)


def shared_counters(note: str) -> Counters:
    """Return counters in shared memory, and leave a note that leads to them.

    The memory has no name, so nothing is left when the server has been killed, and no disk can be full of it.

    Raises:
        OSError: The note cannot be written.
    """
    fd = os.memfd_create("fuse_union-counters", os.MFD_CLOEXEC)
    os.ftruncate(fd, _NUMBERS.size)
    found = b"%d %d %d" % (os.getpid(), _start_time(os.getpid()), fd)
    note_fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(note_fd, found)
    finally:
        os.close(note_fd)
    return memoryview(mmap.mmap(fd, _NUMBERS.size)).cast("Q")


def read_counters(note: str) -> Mapping[str, int]:
    """Return what the server of a note has counted since its mount; nothing if it does not run (any more)."""
    try:
        with open(note, "rb") as stream:
            pid, start, fd = map(int, stream.read().split())
        if _start_time(pid) != start:
            return {}
        with open(f"/proc/{pid}/fd/{fd}", "rb") as stream:
            numbers = _NUMBERS.unpack(stream.read(_NUMBERS.size))
        return _named(numbers) | {"rss_bytes": _resident(pid)}
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return {}


def _named(numbers: tuple[int, ...]) -> dict[str, int]:
    requests = {f"requests_{Opcode(code).name.lower()}": numbers[code] for code in Opcode if numbers[code]}
    return {
        "requests": sum(numbers[:MOST_OPCODES]),
        "requests_answered": sum(numbers[:MOST_OPCODES]) - sum(numbers[code] for code in _NO_ANSWER),
        **requests,
        "cache_hits": numbers[KNOWN],
        "read_bytes": numbers[READ_BYTES],
        "written_bytes": numbers[WRITTEN_BYTES],
        "passthrough_opens": numbers[PASSED_OPENS],
    }


def _start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as stream:
        return int(stream.read().rpartition(b") ")[2].split()[_START_TIME])


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", "rb") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
