"""A monitor forked before there is a container: it settles while its caller still makes one."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from plugengine.monitor.task import Task
    from plugengine.site import Site

_WORD: Final = b"+"


class Spare:
    """The caller's end of a monitor that waits; without a word it goes when the caller does."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def hand_over(self, task: Task, connection: socket.socket) -> bool:
        """Give it its task and the connection to the caller; False when it is gone."""
        from plugengine.monitor.task import write

        written = write(task)
        try:
            socket.send_fds(self._connection, [_WORD], [connection.fileno(), written])
        except OSError:
            return False
        finally:
            os.close(written)
            self.close()
        return True

    def close(self) -> None:
        """Let it go."""
        self._connection.close()


def fork_spare(site: Site) -> Spare | None:
    """Fork a monitor ahead; None where only a new interpreter would do, see `main.spawn`.

    The caller must not have opened the state database yet, or a fork closes it.
    """
    if threading.active_count() > 1 or not site.short_lived:
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _wait(site, theirs)
    theirs.close()
    return Spare(ours)


def _wait(site: Site, connection: socket.socket) -> NoReturn:
    try:
        from plugengine.monitor.main import cut_ties, supervise
        from plugengine.monitor.task import read

        connection = cut_ties(connection)
        site.state.query("SELECT 1")  # opened while there is time
        data, descriptors, _flags, _address = socket.recv_fds(connection, len(_WORD), 2)
        connection.close()
        if not data:
            os._exit(0)
        caller, task = descriptors
        supervise(site, read(task), socket.socket(fileno=caller))
    finally:
        os._exit(1)
