"""Start, watch and end a file server that a storage driver asked for (`model.Server`)."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import traceback
from typing import Final, NoReturn

from plugengine.errors import DriverError
from plugengine.kernel import credentials, files, process
from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.model import HostPath, Server

START_DEADLINE_S: Final = 10.0
END_DEADLINE_S: Final = 5.0


class ServerProcess:
    """A running file server; `pidfd` is readable when it has ended."""

    def __init__(self, *, entry: str, pid: int, pidfd: int, target: HostPath, ready_fd: int, log: HostPath) -> None:
        self._entry = entry
        self.pid = pid
        self.pidfd = pidfd
        self.target = target
        self.ended: bool = False
        self._ready_fd = ready_fd
        self._log = log

    def wait_ready(self) -> None:
        """Wait until it says that it is mounted; a second call returns at once.

        Raises:
            DriverError: It ended or hung before that; the message has the last line of its log.
        """
        if self._ready_fd < 0:
            return
        poll = select.poll()
        poll.register(self._ready_fd, select.POLLIN)
        ready = bool(poll.poll(START_DEADLINE_S * 1000)) and os.read(self._ready_fd, 1) == b"+"
        os.close(self._ready_fd)
        self._ready_fd = -1
        if not ready:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            try:
                self.end()
            except DriverError:
                pass  # its log says more
            raise DriverError(f"storage server {self._entry}: did not mount {self.target}: {_last_line(self._log)}")

    def end(self) -> None:
        """Unmount, let the server finish, kill it if it does not; idempotent.

        Raises:
            DriverError: It did not end well: what it had still to write may be lost.
        """
        if self.ended:
            return
        self.ended = True
        given_up = self._ready_fd >= 0  # it may not have come to its mount yet, and then nothing would tell it to end
        if given_up:
            os.close(self._ready_fd)
            self._ready_fd = -1
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        try:
            umount2(self.target, MNT_DETACH)
        except OSError:
            pass
        hangs = not poll.poll(END_DEADLINE_S * 1000)
        if hangs:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        # One that somebody has killed is whoever watches it to tell.
        failed = result is not None and result.si_code == os.CLD_EXITED and result.si_status != 0
        if result is not None and not given_up and (hangs or failed):
            raise DriverError(f"storage server {self._entry}: {_how(result)} when it was unmounted")

    def reap(self) -> str:
        """Say how an ended server ended; only after `pidfd` became readable."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return "is running"
        self.ended = True
        os.close(self.pidfd)
        return _how(result)


def start(server: Server, *, log: HostPath) -> ServerProcess:
    """Fork the server; `wait_ready` returns once its filesystem is mounted."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    parent = os.getpid()
    with process.bare_children():
        pid = os.fork()
    if pid == 0:
        _serve(server, write_end, log_fd, parent=parent)
    os.close(write_end)
    os.close(log_fd)
    pidfd = os.pidfd_open(pid)
    return ServerProcess(
        entry=server.entry,
        pid=pid,
        pidfd=pidfd,
        target=HostPath(str(server.config["target"])),
        ready_fd=read_end,
        log=log,
    )


def _how(result: os.waitid_result) -> str:
    if result.si_code == os.CLD_EXITED:
        return f"exited with {result.si_status}"
    return f"was killed by {signal.Signals(result.si_status).name}"


def _last_line(log: HostPath) -> str:
    with open(log, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines()
    return lines[-1] if lines else "it said nothing"


def _serve(server: Server, ready_fd: int, log_fd: int, *, parent: int) -> NoReturn:
    code = 1
    try:
        credentials.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it could be noticed
            os._exit(code)
        credentials.set_name(b"pe-server")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        ready_copy = os.dup(ready_fd) if ready_fd < 4 else ready_fd
        os.dup2(log_fd, 2)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(ready_copy, 3, inheritable=False)
        files.close_range(4)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        module, _, function = server.entry.partition(":")

        def ready() -> None:
            os.write(3, b"+")
            os.close(3)

        code = int(getattr(importlib.import_module(module), function)(server.config, ready) or 0)
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        os._exit(code)
