"""Operations on files and their attributes: open, read, write, map, lock, change; see open(2), fcntl(2), mmap(2)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import time
from typing import Any

from plugengine.kernel.files import fallocate
from plugengine.testing.children import Child, in_child
from plugengine.testing.storage.pair import outcome

# include/uapi/linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_PAGE = mmap.PAGESIZE


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def open_directory_for_writing(root: str) -> Any:
    """A directory cannot be opened for writing (EISDIR), a file not as a directory (ENOTDIR)."""
    found = [outcome(os.open, f"{root}/{name}", os.O_WRONLY) for name in ("d", "e", "to-d", ".")]
    return found, [outcome(os.open, f"{root}/{name}", os.O_RDONLY | os.O_DIRECTORY) for name in ("f", "to-f", "no")]


def truncating_open(root: str) -> Any:
    """O_TRUNC empties a file of a layer, also when it is opened for nothing else."""
    os.close(os.open(f"{root}/f", os.O_WRONLY | os.O_TRUNC))
    os.close(os.open(f"{root}/g", os.O_RDONLY | os.O_TRUNC))
    return os.stat(f"{root}/f").st_size, os.stat(f"{root}/g").st_size


def appending(root: str) -> Any:
    """O_APPEND writes at the end wherever the position is, also of two descriptors by turns."""
    one, two = (os.open(f"{root}/f", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    try:
        for number in range(3):
            os.lseek(one, 0, os.SEEK_SET)
            os.write(one, b"one%d" % number)
            os.write(two, b"two%d" % number)
    finally:
        os.close(one)
        os.close(two)
    return _read(f"{root}/f")


def read_sees_write(root: str) -> Any:
    """A reader that had the file of a layer open by its name before a write sees the write when it opens it again."""
    before = _read(f"{root}/f")
    with open(f"{root}/f", "r+b") as writer:
        writer.write(b"CHANGED")
        writer.flush()
        return before, _read(f"{root}/f")


def two_writers(root: str) -> Any:
    """Two descriptors opened for writing are of one file: each sees what the other writes."""
    one, two = (os.open(f"{root}/f", os.O_RDWR) for _ in range(2))
    try:
        os.pwrite(one, b"ONE", 0)
        os.pwrite(two, b"TWO", 5)
        return os.pread(one, 10, 0), os.pread(two, 10, 0), os.fstat(one).st_ino == os.fstat(two).st_ino
    finally:
        os.close(one)
        os.close(two)


def offsets(root: str) -> Any:
    """Reads and writes at offsets, beyond the end, and vectors go where they should."""
    fd = os.open(f"{root}/f", os.O_RDWR)
    try:
        os.pwrite(fd, b"beyond", 100)
        os.pwritev(fd, [b"a", b"bc"], 50)
        return os.pread(fd, 200, 0), os.pread(fd, 10, 500), os.lseek(fd, -3, os.SEEK_END), outcome(os.lseek, fd, -1, 0)
    finally:
        os.close(fd)


def truncate(root: str) -> Any:
    """Truncate makes files shorter and longer, refuses directories and negative lengths."""
    os.truncate(f"{root}/f", 3)
    os.truncate(f"{root}/g", 10_000)
    errors = [outcome(os.truncate, f"{root}/{name}", size) for name, size in (("d", 0), ("no", 0), ("f", -1))]
    return _read(f"{root}/f"), len(_read(f"{root}/g").strip(b"\0")), errors


def sync(root: str) -> Any:
    """Files of layers, new ones and directories can be synced."""
    found = []
    for name, flags in (("f", os.O_RDWR), ("g", os.O_RDONLY), ("d", os.O_RDONLY), ("new", os.O_RDWR | os.O_CREAT)):
        fd = os.open(f"{root}/{name}", flags, 0o600)
        if flags & os.O_RDWR:
            os.write(fd, b"synced")
        found += [outcome(os.fsync, fd), outcome(os.fdatasync, fd)]
        os.close(fd)
    return found


def mapped_writes(root: str) -> Any:
    """What is written to a shared mapping is read by everyone and kept; a private mapping changes nothing."""
    os.truncate(f"{root}/f", _PAGE)
    fd = os.open(f"{root}/f", os.O_RDWR)
    with mmap.mmap(fd, _PAGE) as shared, mmap.mmap(fd, _PAGE, mmap.MAP_PRIVATE) as private:
        shared[10:16] = b"SHARED"
        private[20:27] = b"PRIVATE"
        read = os.pread(fd, 30, 0)
        os.pwrite(fd, b"WRITE", 40)
        seen = bytes(shared[40:45])
        shared.flush()
    os.close(fd)
    return read, seen, _read(f"{root}/f")[:50]


def mapped_programs(root: str) -> Any:
    """A program of a layer can be mapped and read after its file was changed by name."""
    fd = os.open(f"{root}/program", os.O_RDONLY)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping:
        before = bytes(mapping[:5])
        os.rename(f"{root}/program", f"{root}/program.old")
        with open(f"{root}/program", "wb") as stream:
            stream.write(b"#!/bin/new\n")
        after = bytes(mapping[:5])
    os.close(fd)
    return before, after, _read(f"{root}/program")


def whole_file_locks(root: str) -> Any:
    """A flock(2) by one process keeps another's out, through two opens of one name, until it is given up."""

    def attempt() -> Any:
        fd = os.open(f"{root}/g", os.O_RDWR)
        return outcome(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    fd = os.open(f"{root}/g", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    held = in_child(attempt)
    fcntl.flock(fd, fcntl.LOCK_UN)
    free = in_child(attempt)
    os.close(fd)
    return held, free


def record_locks(root: str) -> Any:
    """A lock of fcntl(2) on a range keeps other processes out of that range only, and goes with its process."""

    def attempt(start: int) -> Any:
        fd = os.open(f"{root}/f", os.O_RDWR)
        return outcome(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, start)

    fd = os.open(f"{root}/f", os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    found = [in_child(lambda: attempt(2)), in_child(lambda: attempt(20))]
    os.close(fd)
    return found, in_child(lambda: attempt(2))


def waiting_lock(root: str) -> Any:
    """A process that waits for a lock gets it when the holder dies."""
    read_end, write_end = os.pipe()

    def hold() -> None:
        fcntl.flock(os.open(f"{root}/g", os.O_RDWR), fcntl.LOCK_EX)
        os.write(write_end, b"+")
        time.sleep(0.05)
        os._exit(0)

    child = Child(hold)
    os.read(read_end, 1)
    fd = os.open(f"{root}/g", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    for each in (fd, read_end, write_end):
        os.close(each)
    return child.status()


def unlinked_file(root: str) -> Any:
    """A file that was deleted while open can be read, written and changed until it is closed."""
    fd = os.open(f"{root}/f", os.O_RDWR)
    try:
        os.unlink(f"{root}/f")
        os.pwrite(fd, b"STILL", 0)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 9)
        with open(f"{root}/f", "xb") as stream:
            stream.write(b"another\n")
        return os.pread(fd, 100, 0), os.fstat(fd).st_nlink, os.fstat(fd).st_size
    finally:
        os.close(fd)


def unlinked_reader(root: str) -> Any:
    """A file of a layer that was opened for reading, then deleted or replaced by name, is read as it was."""
    one, two = (os.open(f"{root}/{name}", os.O_RDONLY) for name in "fg")
    try:
        os.unlink(f"{root}/f")
        with open(f"{root}/new", "wb") as stream:
            stream.write(b"new\n")
        os.rename(f"{root}/new", f"{root}/g")
        return os.pread(one, 100, 0), os.pread(two, 100, 0), _read(f"{root}/g")
    finally:
        os.close(one)
        os.close(two)


def allocate(root: str) -> Any:
    """Fallocate makes a file longer, or not if it is to keep its size, and punches holes that read as zeros."""
    fd = os.open(f"{root}/f", os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, 8 * _PAGE)
        os.pwrite(fd, b"x" * 8 * _PAGE, 0)
        fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, _PAGE, 2 * _PAGE)
        fallocate(fd, _KEEP_SIZE, 8 * _PAGE, _PAGE)
        return os.fstat(fd).st_size, os.pread(fd, 4, _PAGE - 2), os.pread(fd, 4, 3 * _PAGE - 2)
    finally:
        os.close(fd)


def holes(root: str) -> Any:
    """SEEK_DATA and SEEK_HOLE find data where there is some, and ENXIO beyond the end."""
    with open(f"{root}/holes", "wb") as stream:
        stream.seek(64 * _PAGE)
        stream.write(b"data")
    fd = os.open(f"{root}/holes", os.O_RDONLY)
    try:
        data = os.lseek(fd, 64 * _PAGE, os.SEEK_DATA)
        end = os.lseek(fd, 64 * _PAGE, os.SEEK_HOLE)
        return data, end, outcome(os.lseek, fd, 65 * _PAGE, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE) in (0, end)
    finally:
        os.close(fd)


def copy_range(root: str) -> Any:
    """Copy_file_range copies from files of layers to new ones, and between offsets.

    Between filesystems it may refuse with EXDEV (copy_file_range(2)); programs then read and write, as is done here.
    """

    def copied(source: int, target: int, count: int, from_: int, to: int) -> int:
        try:
            return os.copy_file_range(source, target, count, from_, to)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
        return os.pwrite(target, os.pread(source, count, from_), to)

    with open(f"{root}/f", "rb") as source, open(f"{root}/copy", "wb") as target:
        whole = copied(source.fileno(), target.fileno(), 1000, 0, 0)
        part = copied(source.fileno(), target.fileno(), 5, 2, 30)
        nothing = copied(source.fileno(), target.fileno(), 5, 1000, 0)
    return whole, part, nothing, _read(f"{root}/copy")


def send_file(root: str) -> Any:
    """Sendfile sends a file of a layer through a pipe."""
    read_end, write_end = os.pipe()
    with open(f"{root}/f", "rb") as source:
        sent = os.sendfile(write_end, source.fileno(), 0, 100)
    data = os.read(read_end, 200)
    os.close(read_end)
    os.close(write_end)
    return sent, data


def pipes(root: str) -> Any:
    """A pipe of a layer joins two processes that open it by its name."""

    def write() -> None:
        with open(f"{root}/pipe", "wb", buffering=0) as stream:
            stream.write(b"through the pipe\n")

    child = Child(write)
    with open(f"{root}/pipe", "rb") as stream:
        data = stream.read()
    # overlayfs leaves the time of a pipe of a layer alone: what goes through it is not written to the filesystem.
    os.utime(f"{root}/pipe", ns=(1, 1))
    return data, child.status()


def poll(root: str) -> Any:
    """A regular file is always ready for reading and writing."""
    fd = os.open(f"{root}/f", os.O_RDWR)
    try:
        ready = select.poll()
        ready.register(fd, select.POLLIN | select.POLLOUT)
        return [events for _fd, events in ready.poll(0)]
    finally:
        os.close(fd)


def execute(root: str) -> Any:
    """A program can be run from a layer, after its mode was changed, and not without the right to."""
    os.chmod(f"{root}/f", 0o755)
    flags = [os.access(f"{root}/{name}", os.X_OK) for name in ("program", "f", "g")]

    def run() -> Any:
        return outcome(os.execv, f"{root}/g", [f"{root}/g"])

    return flags, in_child(run)


def statistics(root: str) -> Any:
    """Statvfs answers, with names of up to 255 bytes and space in it."""
    found = os.statvfs(root)
    return found.f_namemax, found.f_blocks > 0, found.f_bsize > 0


OPERATIONS = (
    open_directory_for_writing,
    truncating_open,
    appending,
    read_sees_write,
    two_writers,
    offsets,
    truncate,
    sync,
    mapped_writes,
    mapped_programs,
    whole_file_locks,
    record_locks,
    waiting_lock,
    unlinked_file,
    unlinked_reader,
    allocate,
    holes,
    copy_range,
    send_file,
    pipes,
    poll,
    execute,
    statistics,
)
