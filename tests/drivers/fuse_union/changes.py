"""Every way to change a file's data, with a look at its attributes while it is open, when it is closed, and later."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from plugengine.kernel.files import fallocate

BLOCK: Final = 4096
SIZE: Final = 3 * BLOCK  # of the file that is changed
# include/uapi/linux/falloc.h
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

Look: TypeAlias = "Callable[[], None]"
Change = Callable[[Path, Look], None]  # of a file; looks while the file is open
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    """Add a function to the changes."""
    CHANGES[function.__name__] = function
    return function


@contextmanager
def opened(path: Path, flags: int, mode: int = 0) -> Iterator[int]:
    """Lend a descriptor."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@change
def write(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd:
        look()
        os.pwrite(fd, b"written", 10)
        look()


@change
def write_beyond_the_end(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"written", 10 * BLOCK)
        look()


@change
def append(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        for _ in range(2):
            os.write(fd, b"written")
            look()


@change
def write_nothing(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd:
        look()
        os.pwrite(fd, b"", 0)
        look()


@change
def write_around_the_cache(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY | os.O_DIRECT) as fd, mmap.mmap(-1, BLOCK) as block:
        assert os.pwritev(fd, [block], BLOCK) == BLOCK
        look()


@change
def splice(path: Path, look: Look) -> None:
    read_end, write_end = os.pipe()
    with opened(path, os.O_WRONLY) as fd:
        os.write(write_end, b"spliced")
        assert os.splice(read_end, fd, 7, offset_dst=5) == 7
        look()
    os.close(read_end)
    os.close(write_end)


@change
def send(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd, opened(path.with_name("source"), os.O_RDONLY) as source:
        assert os.sendfile(fd, source, 0, BLOCK) == BLOCK
        look()


@change
def copy_range(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd, opened(path.with_name("source"), os.O_RDONLY) as source:
        assert os.copy_file_range(source, fd, BLOCK, 0, SIZE) == BLOCK
        look()


@change
def allocate(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd:
        fallocate(fd, 0, 0, 5 * BLOCK)
        look()
        fallocate(fd, KEEP_SIZE, 5 * BLOCK, 5 * BLOCK)
        look()


@change
def punch(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd:
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, BLOCK, BLOCK)
        look()
        fallocate(fd, ZERO_RANGE, 0, BLOCK)
        look()


@change
def truncate(path: Path, look: Look) -> None:
    os.truncate(path, BLOCK)
    look()
    os.truncate(path, BLOCK)
    look()
    os.truncate(path, 10 * BLOCK)


@change
def truncate_open(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, BLOCK)
        look()
        os.ftruncate(fd, BLOCK)
        look()
        os.ftruncate(fd, 10 * BLOCK)
        look()


@change
def open_truncated(path: Path, look: Look) -> None:
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        look()
        os.write(fd, b"new")
        look()


@change
def open_empty_truncated(path: Path, look: Look) -> None:
    os.truncate(path, 0)
    look()
    with opened(path, os.O_WRONLY | os.O_TRUNC):
        look()


@change
def map_shared(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, SIZE) as mapped:
        look()
        mapped[0] = 1
        mapped.flush()
        look()
        mapped[BLOCK] = 1
        mapped.flush()
        look()


@change
def map_for_long(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, SIZE) as mapped:
        look()
        for place in (0, BLOCK, 2 * BLOCK):
            mapped[place] = 1
            look()


@change
def map_a_hole(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, 20 * BLOCK)
        look()
        with mmap.mmap(fd, 20 * BLOCK) as mapped:
            mapped[:] = b"m" * len(mapped)
            mapped.flush()
            look()


@change
def map_and_close(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, SIZE)
        look()
    look()
    mapped[0] = 1
    mapped.flush()
    look()
    mapped.close()


@change
def map_and_forget(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, SIZE) as mapped:
        look()
        mapped[0] = 1


@change
def map_privately(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE) as mapped:
        look()
        mapped[0] = 1
        look()


@change
def write_and_map(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, SIZE) as mapped:
        os.pwrite(fd, b"w", 0)
        look()
        mapped[0] = 1
        mapped.flush()
        look()
        os.pwrite(fd, b"w", 0)
        look()


@change
def read(path: Path, look: Look) -> None:
    with opened(path, os.O_RDONLY) as fd:
        os.pread(fd, 10, 0)
        look()


@change
def change_owner(path: Path, look: Look) -> None:
    os.chown(path, -1, os.getgid())


@change
def change_nothing(path: Path, look: Look) -> None:
    if not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chown(path, -1, -1)
    look()
    with opened(path, os.O_RDWR):
        look()


@change
def change_mode_while_writing(path: Path, look: Look) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"one", 0)
        look()
        os.chmod(path, 0o600)
        look()
        os.pwrite(fd, b"two", 0)
        look()


def make(directory: Path) -> None:
    """Make the file to be changed and one to copy from."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "file").write_bytes(b"a" * SIZE)
    (directory / "source").write_bytes(b"s" * SIZE)


def looks(path: Path, act: Change) -> list[Any]:
    """Return what is seen of a file, first, at each look, and twice after the change.

    Each is the mode, the size, by how many blocks it has grown, and whether the times of modification and change moved.
    """
    seen: list[Any] = []
    before = path.stat()

    def look() -> None:
        nonlocal before
        found = path.stat()
        moved = [getattr(found, name) != getattr(before, name) for name in ("st_mtime_ns", "st_ctime_ns")]
        seen.append((oct(found.st_mode), found.st_size, found.st_blocks - before.st_blocks, *moved))
        before = found

    look()
    try:
        act(path, look)
    except OSError as exc:
        seen.append(os.strerror(exc.errno or 0))
    look()
    look()
    return seen
