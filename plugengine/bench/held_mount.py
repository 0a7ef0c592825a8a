"""Keep a root filesystem mounted in a mount namespace of its own, as a container's monitor does, but without one."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec
from msgspec import Struct

from plugengine import mounts
from plugengine.containers import file_server
from plugengine.errors import DriverError
from plugengine.kernel import credentials, process
from plugengine.kernel.mount import MNT_DETACH, MS_PRIVATE, MS_REC, mount, umount2
from plugengine.model import HostPath, Mount, Rootfs

_MESSAGE_BYTES: Final = 4096


class Report(Struct, frozen=True, kw_only=True):
    """What the process that holds a mount says, when it is there and when it is gone."""

    seconds: float = 0.0
    server_pid: int = 0
    error: str = ""


class Holder:
    """A process that has mounted a root filesystem; the mount ends with it.

    Args:
        rootfs: What a storage driver answered.
        target: Where it appears; made if it is missing.
        log: Takes what a server says.
        inside: Mounted over it afterwards and not timed: /proc and what else programs need.

    Raises:
        DriverError: It could not be mounted.
    """

    def __init__(self, rootfs: Rootfs, target: HostPath, log: HostPath, *, inside: Sequence[Mount] = ()) -> None:
        os.makedirs(target, exist_ok=True)
        self.target = target
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, process.bare_children():
            self.pid, self._pidfd = process.clone3(process.CLONE_NEWNS)
            if self.pid == 0:
                self._connection.close()
                _hold(rootfs, target, log, inside, theirs)
        report = self._hear()
        if report.error:
            self._end()
            raise DriverError(report.error)
        self.mounted_s = report.seconds
        self.server_pid = report.server_pid

    @property
    def root(self) -> HostPath:
        """The mounted root, as others can reach it."""
        return HostPath(f"/proc/{self.pid}/root{self.target}")

    def release(self) -> float:
        """Unmount, wait until a server has ended, and return the seconds both took.

        Raises:
            DriverError: It could not be unmounted; it is gone all the same.
        """
        try:
            self._connection.send(b"-")
        except OSError:
            report = Report(error="the process that held the mount has died")
        else:
            report = self._hear()
        self._end()
        if report.error:
            raise DriverError(report.error)
        return report.seconds

    def close(self) -> None:
        """Be rid of it, however it is."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._end()

    def _hear(self) -> Report:
        content = self._connection.recv(_MESSAGE_BYTES)
        return (
            msgspec.json.decode(content, type=Report) if content else Report(error="the process that mounts has died")
        )

    def _end(self) -> None:
        if self._pidfd < 0:
            return
        self._connection.close()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1


def _hold(
    rootfs: Rootfs, target: HostPath, log: HostPath, inside: Sequence[Mount], connection: socket.socket
) -> NoReturn:
    """Mount, say how long it took, unmount when told to; in a process of its own, which dies with its parent."""
    try:
        credentials.set_pdeathsig(signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; our parent tells us when to end
        mount("none", "/", "", MS_REC | MS_PRIVATE, "")
        begin = time.perf_counter()
        for each in rootfs.mounts:
            os.makedirs(each.target, exist_ok=True)
            mounts.perform(each)
        server = file_server.start(rootfs.server, log=log) if rootfs.server is not None else None
        if server is not None:
            server.wait_ready()
        os.stat(target)
        took = time.perf_counter() - begin
        for each in inside:
            _perform_inside(each)
        connection.send(msgspec.json.encode(Report(seconds=took, server_pid=server.pid if server else 0)))
        if connection.recv(1):
            for each in reversed(inside):
                umount2(each.target, MNT_DETACH)
            connection.send(msgspec.json.encode(Report(seconds=_unmount(rootfs, server))))
    except Exception as exc:  # noqa: BLE001 - there is nobody above
        connection.send(msgspec.json.encode(Report(error=str(exc)[: _MESSAGE_BYTES // 2] or type(exc).__name__)))
    finally:
        os._exit(0)


def _perform_inside(request: Mount) -> None:
    if os.path.isdir(request.source):
        os.makedirs(request.target, exist_ok=True)
    mounts.perform(request)


def _unmount(rootfs: Rootfs, server: file_server.ServerProcess | None) -> float:
    begin = time.perf_counter()
    if server is not None:
        server.end()
    for each in reversed(rootfs.mounts):
        umount2(each.target, MNT_DETACH)
    return time.perf_counter() - begin
