"""Every way to change a file's data, and what is seen of the file then; see inode(7), mmap(2), fallocate(2)."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from plugengine.kernel.attributes import remembered_mode
from plugengine.kernel.capabilities import CAPABILITIES
from plugengine.kernel.credentials import capget, capset
from plugengine.kernel.files import AT_FDCWD
from plugengine.testing.children import in_child
from plugengine.testing.storage.pair import outcome

Way = Callable[[str], None]  # to change the file at a path

_NOBODY: Final = 65534
_PAGE: Final = mmap.PAGESIZE
_SOURCE: Final = "source"  # beside every file that is changed: to copy from


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(path: str) -> None:
    with _opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"w", 0)


def _append(path: str) -> None:
    with _opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"appended")


def _write_around_the_cache(path: str) -> None:
    """Write by O_DIRECT, or as always on a filesystem that has none."""
    with mmap.mmap(-1, _PAGE) as page:
        try:
            with _opened(path, os.O_WRONLY | os.O_DIRECT) as fd:
                os.pwritev(fd, [page], 0)
        except OSError:
            _write(path)


def _splice(path: str) -> None:
    read_end, write_end = os.pipe()
    with _opened(path, os.O_WRONLY) as fd:
        os.write(write_end, b"s")
        os.splice(read_end, fd, 1, offset_dst=0)
    os.close(read_end)
    os.close(write_end)


def _send(path: str) -> None:
    with _opened(path, os.O_WRONLY) as fd, _opened(f"{os.path.dirname(path)}/{_SOURCE}", os.O_RDONLY) as source:
        os.sendfile(fd, source, 0, _PAGE)


def _copy_range(path: str) -> None:
    with _opened(path, os.O_WRONLY) as fd, _opened(f"{os.path.dirname(path)}/{_SOURCE}", os.O_RDONLY) as source:
        os.copy_file_range(source, fd, _PAGE, 0, 0)


def _allocate(path: str) -> None:
    """Give a file more room; where fallocate(2) is not to be had the C library writes."""
    with _opened(path, os.O_RDWR) as fd:
        os.posix_fallocate(fd, 0, 4 * _PAGE)


def _truncate(path: str) -> None:
    os.truncate(path, _PAGE // 2)


def _truncate_open(path: str) -> None:
    with _opened(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, 2 * _PAGE)


def _open_truncated(path: str) -> None:
    with _opened(path, os.O_WRONLY | os.O_TRUNC):
        pass


def _map(path: str) -> None:
    with _opened(path, os.O_RDWR) as fd, mmap.mmap(fd, _PAGE) as shared:
        os.stat(path)  # a mapping is made, which may have the kernel ask; a write through it makes it ask again
        shared[0] = 1


def _map_and_close_first(path: str) -> None:
    with _opened(path, os.O_RDWR) as fd:
        shared = mmap.mmap(fd, _PAGE)
    os.stat(path)
    shared[0] = 1
    shared.flush()
    shared.close()


_MAPS: Final[tuple[Way, ...]] = (_map, _map_and_close_first)
_WRITES: Final[tuple[Way, ...]] = (
    _write,
    _append,
    _write_around_the_cache,
    _splice,
    _send,
    _copy_range,
    _allocate,
    _truncate,
    _truncate_open,
    _open_truncated,
)


def _make(directory: str, names: tuple[str, ...], mode: int) -> None:
    os.mkdir(directory)
    for name in (*names, _SOURCE):
        with open(f"{directory}/{name}", "wb") as stream:
            stream.write(name[:1].encode() * 2 * _PAGE)
        os.chmod(f"{directory}/{name}", mode)


def changes_are_seen(root: str) -> Any:
    """Whatever changes a file moves its times and size at once, also by a mapping whose descriptor is closed."""
    ways = (*_WRITES, *_MAPS)
    _make(f"{root}/changed", tuple(way.__name__ for way in ways), 0o644)
    found = []
    for way in ways:
        path = f"{root}/changed/{way.__name__}"
        before = os.stat(path)
        way(path)
        after = os.stat(path)
        times = before.st_mtime_ns != after.st_mtime_ns, before.st_ctime_ns != after.st_ctime_ns
        again = os.stat(path)
        found.append((way.__name__, after.st_size, times, again.st_mtime_ns == after.st_mtime_ns))
    return found


def mapped_holes_are_filled(root: str) -> Any:
    """What is written to a hole by a mapping is data: counted in the blocks, and found by SEEK_DATA."""
    with _opened(f"{root}/new-hole", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 64 * _PAGE)
        with mmap.mmap(fd, 64 * _PAGE) as shared:
            holes = os.fstat(fd).st_blocks
            shared[:] = b"m" * len(shared)
            shared.flush()
    found = os.stat(f"{root}/new-hole")
    with _opened(f"{root}/new-hole", os.O_RDONLY) as fd:
        return found.st_blocks > holes, os.lseek(fd, 0, os.SEEK_DATA)


def _executed_with(path: str) -> str:
    """Return the mode the kernel would execute a file with now."""
    os.access(path, os.X_OK)
    return oct(stat.S_IMODE(remembered_mode(AT_FDCWD, path)))


def _modes_after(root: str, mode: int, become: Callable[[], None]) -> Any:
    """Let somebody change set-id programs, each in another way; return for each way with which mode it can be executed.

    That is before, after, and when the kernel has asked for its attributes.
    """
    _make(f"{root}/programs", tuple(way.__name__ for way in _WRITES), mode)
    paths = {way: f"{root}/programs/{way.__name__}" for way in _WRITES}
    before = {way: _executed_with(path) for way, path in paths.items()}  # so the kernel knows the old ones

    def change() -> list[Any]:
        become()
        return [outcome(way, path) for way, path in paths.items()]

    results = dict(zip(_WRITES, in_child(change), strict=True))
    after = {way: _executed_with(path) for way, path in paths.items()}
    return {
        way.__name__: (results[way], before[way], after[way], oct(stat.S_IMODE(os.stat(path).st_mode)))
        for way, path in paths.items()
    }


def set_id_goes_with_every_change(root: str) -> Any:
    """A set-id program that somebody else changes, in whatever way, does not run with its rights any more."""

    def become_nobody() -> None:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)

    return _modes_after(root, 0o6777, become_nobody)


def set_id_stays_by_capability(root: str) -> Any:
    """Root may change a set-id program and leaves it one; without CAP_FSETID root is as anybody."""

    def give_up_fsetid() -> None:
        effective, permitted, inheritable = capget()
        capset(effective & ~(1 << CAPABILITIES["CAP_FSETID"]), permitted, inheritable)

    kept = _modes_after(root, 0o6755, lambda: None)
    os.rename(f"{root}/programs", f"{root}/kept")
    return kept, _modes_after(root, 0o6755, give_up_fsetid)


def set_id_set_while_writing(root: str) -> Any:
    """A file that is made set-id while somebody has it open for writing is one no more when they write."""
    _make(f"{root}/programs", ("late",), 0o755)
    path = f"{root}/programs/late"
    with _opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"before")
        os.chmod(path, 0o6755)
        before = _executed_with(path)

        def write() -> int:
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            return os.write(fd, b"after")

        in_child(write)
    return before, _executed_with(path)


OPERATIONS = (
    changes_are_seen,
    mapped_holes_are_filled,
    set_id_goes_with_every_change,
    set_id_stays_by_capability,
    set_id_set_while_writing,
)
