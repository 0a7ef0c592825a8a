"""File operations as values: drawn by hypothesis, done on any directory, told as result or errno."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from plugengine.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.drivers.fuse_union.pictures import shown

_NAMES = ("a", "b", "c", "d", "e", "\udcff")
_CONTENT = st.sampled_from([b"", b"x", b"twelve bytes", b"y" * 5000])

_path = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3).map("/".join)
_mode = st.sampled_from([0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o000])
_owner = st.sampled_from([-1, 0, 1, 65534])
_slot = st.integers(0, 2)


@dataclass(frozen=True)
class Step:
    """One operation."""

    call: str
    arguments: tuple[Any, ...]


def _step(call: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(call), st.tuples(*arguments))


STEPS = st.one_of(
    _step("create", _path, _mode),
    _step("write", _path, _CONTENT, st.integers(0, 6000)),
    _step("rewrite", _path, _CONTENT),
    _step("append", _path, _CONTENT),
    _step("read", _path),
    _step("truncate", _path, st.sampled_from([0, 3, 8000])),
    _step("mkdir", _path, _mode),
    _step("unlink", _path),
    _step("rmdir", _path),
    _step("rename", _path, _path, st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE])),
    _step("rename", _path, _path, st.just(0)),
    _step("link", _path, _path),
    _step("symlink", st.sampled_from(["a", "d/a", "nowhere"]), _path),
    _step("mkfifo", _path),
    _step("chmod", _path, _mode),
    _step("chown", _path, _owner.filter(lambda uid: uid >= 0), _owner),
    _step("utime", _path, st.integers(1, 2**31).map(lambda seconds: seconds * 10**9 // 3)),
    _step("setxattr", _path, st.sampled_from(["user.x", "trusted.y"]), _CONTENT.filter(lambda value: len(value) < 99)),
    _step("removexattr", _path, st.sampled_from(["user.x", "trusted.y"])),
    _step("listdir", _path),
    _step("hold", _slot, _path),
    _step("hold_reading", _slot, _path),
    _step("write_held", _slot, _CONTENT),
    _step("read_held", _slot),
    _step("stat_held", _slot),
    _step("punch_held", _slot),
    _step("drop", _slot),
    _step("drop", _slot.map(lambda slot: slot + 10)),
    _step("remount"),
)


class Actor:
    """Does steps below one directory."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._held: dict[int, int] = {}

    def close(self) -> None:
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def do(self, step: Step) -> Any:
        """Return the result in a form that can be compared, or the errno."""
        try:
            return getattr(self, f"_{step.call}")(*step.arguments)
        except OSError as exc:
            return os.strerror(exc.errno or 0)

    def do_elsewhere(self, step: Step) -> Any:
        """Do it in a process of its own, which holds what was open here; what it opens to hold is closed again."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, repr(self.do(step)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as stream:
            told = stream.read()
        os.waitpid(pid, 0)
        return told

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _create(self, path: str, mode: int) -> None:
        os.close(os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))

    def _open(self, path: str, flags: int) -> int:
        # Without O_NONBLOCK a FIFO would wait for its other end.
        return os.open(self._at(path), flags | os.O_NONBLOCK | os.O_CLOEXEC)

    def _write(self, path: str, content: bytes, offset: int) -> None:
        fd = self._open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(fd, content, offset)
        finally:
            os.close(fd)

    def _rewrite(self, path: str, content: bytes) -> None:
        fd = self._open(path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def _append(self, path: str, content: bytes) -> None:
        fd = self._open(path, os.O_RDWR | os.O_APPEND)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def _read(self, path: str) -> bytes:
        fd = self._open(path, os.O_RDONLY)
        try:
            return os.read(fd, 10000)
        finally:
            os.close(fd)

    def _truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def _unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def _rename(self, old: str, new: str, flags: int) -> None:
        renameat2(-100, self._at(old), -100, self._at(new), flags)

    def _link(self, old: str, new: str) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def _symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def _mkfifo(self, path: str) -> None:
        os.mkfifo(self._at(path))

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid, follow_symlinks=False)

    def _utime(self, path: str, time_ns: int) -> None:
        os.utime(self._at(path), ns=(time_ns, time_ns), follow_symlinks=False)

    def _setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name, follow_symlinks=False)

    def _listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))

    def _hold(self, slot: int, path: str) -> None:
        fd = self._open(path, os.O_RDWR)
        self._drop(slot)
        self._held[slot] = fd

    def _hold_reading(self, slot: int, path: str) -> None:
        """Hold a reader, whose content is not compared: see `supersede` in the driver."""
        fd = self._open(path, os.O_RDONLY)
        self._drop(slot + 10)
        self._held[slot + 10] = fd

    def _write_held(self, slot: int, content: bytes) -> int | None:
        return os.pwrite(self._held[slot], content, 7) if slot in self._held else None

    def _read_held(self, slot: int) -> bytes | None:
        return os.pread(self._held[slot], 10000, 0) if slot in self._held else None

    def _stat_held(self, slot: int) -> Any:
        return [shown(os.fstat(self._held[held])) if held in self._held else None for held in (slot, slot + 10)]

    def _punch_held(self, slot: int) -> None:
        if slot in self._held:
            os.posix_fallocate(self._held[slot], 100, 9000)

    def _drop(self, slot: int) -> None:
        if slot in self._held:
            os.close(self._held.pop(slot))
