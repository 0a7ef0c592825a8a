"""The standard streams of a process in a container: the monitor's ends and the guest's."""

from __future__ import annotations

import os

from msgspec import Struct

from plugengine.streams import wire


class Stdio(Struct, frozen=True, kw_only=True):
    """The monitor's ends of a process's standard streams."""

    stdin: int | None
    outputs: dict[int, int]  # descriptor: wire.STDOUT or wire.STDERR
    tty: bool


class Pipes:
    """Standard streams without a terminal: pipes, or /dev/null for a stdin nobody will write to."""

    def __init__(self, *, tty: bool, interactive: bool) -> None:
        self.guest: tuple[int, int, int] | None = None
        self._stdin: int | None = None
        self._outputs: dict[int, int] = {}
        if tty:
            return
        if interactive:
            read_end, self._stdin = os.pipe2(os.O_CLOEXEC)
        else:
            read_end = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        self._outputs = {out_read: wire.STDOUT, error_read: wire.STDERR}
        self.guest = (read_end, out_write, error_write)

    def close_guest_ends(self) -> None:
        """Close what only the process inside should hold."""
        for fd in self.guest or ():
            os.close(fd)
        self.guest = None

    def take(self) -> Stdio:
        """Hand our ends over."""
        taken = Stdio(stdin=self._stdin, outputs=self._outputs, tty=False)
        self._stdin, self._outputs = None, {}
        return taken

    def close(self) -> None:
        """Close everything not handed over."""
        self.close_guest_ends()
        for fd in (*self._outputs, *(() if self._stdin is None else (self._stdin,))):
            os.close(fd)
        self._stdin, self._outputs = None, {}
