"""Leave word of the hook of a stranger a process is in, for whoever finds that it ended there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from plugengine.kernel.process import ProcessId, is_alive
from plugengine.model import HostPath


class Calls:
    """The hooks that are being called now: one file for each thread that calls one, below the run root.

    A process that crashes in a hook (a segmentation fault, `os._exit`) cannot say so; its file stays.

    Args:
        directory: Where; None: no word is left.
    """

    def __init__(self, directory: HostPath | None) -> None:
        self.directory: HostPath | None = directory

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Let it be known that this thread is in a hook while the block runs; what cannot be written is left out."""
        path = self._mine()
        before = _read(path) if path else ""
        if path:
            self._write(path, what)
        try:
            yield
        finally:
            if path and before:  # a hook that calls another driver's
                self._write(path, before)
            elif path:
                _remove(path)

    def find(self, process: ProcessId | None) -> str:
        """Return what hook a process that has ended was in; empty: none."""
        return next((text for path in self._paths(process) if (text := _read(path))), "")

    def take(self, process: ProcessId | None) -> str:
        """Return the same, and forget it."""
        found = self.find(process)
        for path in self._paths(process):
            _remove(path)
        return found

    def forget(self) -> None:
        """Forget what nobody asked for: the words of processes that have ended."""
        for name in self._names():
            pid, start, _thread = (int(part) for part in name.split("-"))
            if not is_alive(ProcessId(pid, start)):
                _remove(os.path.join(self.directory or "", name))

    def _paths(self, process: ProcessId | None) -> list[str]:
        if process is None:
            return []
        prefix = f"{process.pid}-{process.start_time}-"
        return [os.path.join(self.directory or "", name) for name in self._names() if name.startswith(prefix)]

    def _names(self) -> list[str]:
        try:
            return [] if self.directory is None else os.listdir(self.directory)
        except OSError:
            return []

    def _mine(self) -> str:
        me = _me(os.getpid())
        if self.directory is None or me is None:
            return ""
        return os.path.join(self.directory, f"{me.pid}-{me.start_time}-{threading.get_native_id()}")

    def _write(self, path: str, what: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(what)
        except OSError:
            pass


@cache
def _me(pid: int) -> ProcessId | None:
    return ProcessId.of(pid)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
