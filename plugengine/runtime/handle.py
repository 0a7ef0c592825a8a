"""A process of a container as the engine holds it: who reaps it, its standard streams, what ends it."""

from __future__ import annotations

import os
import signal

from plugengine.bundle import RuntimeProcess
from plugengine.errors import DriverLoadError
from plugengine.kernel.process import parent_of
from plugengine.model import Record
from plugengine.streams import wire
from plugengine.streams.stdio import Pipes, Stdio


class Handle:
    """A process a runtime made, a child of ours.

    Args:
        made: What the runtime said of it.
        pipes: Its streams; ours from now on.
        runtime: The name of the runtime.

    Raises:
        DriverLoadError: It is no child of ours.
    """

    def __init__(self, made: RuntimeProcess, pipes: Pipes, runtime: str) -> None:
        if parent_of(made.pid) != os.getpid():
            why = f"returned process {made.pid}, which is not a child of the caller"
            raise DriverLoadError(f"runtime driver {runtime}: {why}", hint="a bug of the driver")
        self.pid: int = made.pid
        self.record: Record = made.record
        self.warnings: list[str] = list(made.warnings)
        self._terminal = made.terminal
        self._pipes = pipes
        # Nobody else reaps it, so the number is still its own.
        self._pidfd: int | None = os.pidfd_open(made.pid)
        self._ended = False

    def started(self, made: RuntimeProcess) -> None:
        """Take what the runtime said once the process had become the command."""
        self.warnings += made.warnings
        if made.terminal is not None:
            self._terminal = made.terminal

    def take_stdio(self) -> Stdio:
        """Hand the monitor's ends of the streams over."""
        if self._terminal is not None:
            master, self._terminal = self._terminal, None
            return Stdio(stdin=master, outputs={master: wire.STDOUT}, tty=True)
        return self._pipes.take()

    def take_pidfd(self) -> int:
        """Hand the pidfd over; who has it reaps the process."""
        assert self._pidfd is not None  # noqa: S101 - taken once
        pidfd, self._pidfd = self._pidfd, None
        return pidfd

    def kill(self) -> None:
        """End it with SIGKILL, unless it was handed over."""
        if self._pidfd is not None:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def end(self) -> None:
        """Kill and reap it, unless it was handed over; close what is still open."""
        if self._ended:
            return
        self._ended = True
        self.kill()
        if self._pidfd is not None:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
            self._pidfd = None
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        self._pipes.close()
