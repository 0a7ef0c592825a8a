"""Content: read and write in order and at random, through a mapping, and with the disk waited for."""

from __future__ import annotations

import mmap
import os
import random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plugengine.bench.guest.agent import Job

MIB = 1 << 20
BLOCK = 4096
_SEED = 1
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


def read_in_order(job: Job) -> float | None:
    """Read a file of the image from its beginning to its end."""
    _warm("data")
    buffer = bytearray(MIB)
    read = 0
    with job.timed():
        for _ in range(job.sizes["passes"]):
            read += _read_all("data", buffer)
    return read / job.elapsed_s


def read_cold(job: Job) -> float | None:
    """Read a file of the image for the first time."""
    buffer = bytearray(MIB)
    with job.timed():
        read = _read_all("data", buffer)
    return read / job.elapsed_s


def _read_all(path: str, buffer: bytearray) -> int:
    fd = os.open(path, os.O_RDONLY)
    total = 0
    try:
        while True:
            got = os.readv(fd, [buffer])
            if not got:
                return total
            total += got
    finally:
        os.close(fd)


def _warm(path: str) -> int:
    return _read_all(path, bytearray(MIB))


def read_at_random(job: Job) -> float | None:
    """Read blocks of a file of the image, in an order without sense."""
    offsets = _offsets(_warm("data"), job.sizes["reads"])
    buffer = bytearray(BLOCK)
    fd = os.open("data", os.O_RDONLY)
    with job.timed():
        for offset in offsets:
            os.preadv(fd, [buffer], offset)
    os.close(fd)
    return len(offsets) / job.elapsed_s


def _offsets(size: int, count: int) -> list[int]:
    order = random.Random(_SEED)  # noqa: S311 - the same for all
    return [order.randrange(size // BLOCK) * BLOCK for _ in range(count)]


def write_in_order(job: Job) -> float | None:
    """Write a new file; nobody waits for the disk."""
    buffer = random.Random(_SEED).randbytes(MIB)  # noqa: S311
    _rehearse(job, buffer)
    path = job.work + "/written"
    with job.timed():
        fd = os.open(path, _NEW, 0o644)
        for _ in range(job.sizes["mebibytes"]):
            os.write(fd, buffer)
        os.close(fd)
    os.unlink(path)
    return job.sizes["mebibytes"] * MIB / job.elapsed_s


def _rehearse(job: Job, buffer: bytes) -> None:
    """Write as much once before: a virtual machine's memory is slow the first time it is used."""
    path = job.work + "/rehearsal"
    fd = os.open(path, _NEW, 0o644)
    for _ in range(job.sizes["mebibytes"]):
        os.write(fd, buffer)
    os.close(fd)
    os.unlink(path)


def write_at_random(job: Job) -> float | None:
    """Overwrite blocks of a new file, in an order without sense; nobody waits for the disk."""
    buffer = random.Random(_SEED).randbytes(MIB)  # noqa: S311
    path = job.work + "/written"
    fd = os.open(path, _NEW, 0o644)
    for _ in range(job.sizes["mebibytes"]):
        os.write(fd, buffer)
    offsets = _offsets(job.sizes["mebibytes"] * MIB, job.sizes["writes"])
    block = buffer[:BLOCK]
    with job.timed():
        for offset in offsets:
            os.pwrite(fd, block, offset)
    os.close(fd)
    os.unlink(path)
    return len(offsets) / job.elapsed_s


def read_mapped(job: Job) -> float | None:
    """Map a file of the image anew and touch every page, as the loader does with a program."""
    size = _warm("data")
    touched = 0
    with job.timed():
        for _ in range(job.sizes["passes"]):
            fd = os.open("data", os.O_RDONLY)
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
                touched += sum(memory[::BLOCK]) * 0 + size
            os.close(fd)
    return touched / job.elapsed_s


def fsync(job: Job) -> float | None:
    """Append a block and wait for the disk, again and again; the time of one."""
    fd = os.open(job.work + "/journal", _NEW, 0o644)
    block = bytes(BLOCK)
    with job.timed():
        for _ in range(job.sizes["calls"]):
            os.write(fd, block)
            os.fsync(fd)
    os.close(fd)
    return job.elapsed_s / job.sizes["calls"]


def read_shared(job: Job) -> float | None:
    """Read the file once: in the first container so that it is in memory, in the second to see whether that helped."""
    buffer = bytearray(MIB)
    with job.timed():
        _read_all("data", buffer)
    return None
