"""A monitor forked before there is a container: it settles while its caller still makes one."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec
from msgspec import Struct

from plugengine.kernel.process import ProcessId

if TYPE_CHECKING:
    from plugengine.site import Site
    from plugengine.state.container_rows import ContainerRow

_MESSAGE_BYTES: Final = 4096


class _Task(Struct, frozen=True, kw_only=True):
    """What a spare monitor is told; the descriptor beside it is the connection to the caller."""

    container_id: str
    owner_pid: int
    owner_start: int
    attach: bool
    debug: bool


class Spare:
    """The caller's end of a monitor that waits; without a word it goes when the caller does."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def hand_over(
        self, row: ContainerRow, connection: socket.socket, *, owner: ProcessId, attach: bool, debug: bool
    ) -> bool:
        """Make it the monitor of this container; False when it is gone."""
        task = _Task(container_id=row.id, owner_pid=owner.pid, owner_start=owner.start_time, attach=attach, debug=debug)
        try:
            socket.send_fds(self._connection, [msgspec.json.encode(task)], [connection.fileno()])
        except OSError:
            return False
        finally:
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
        from plugengine.state import container_rows

        connection = cut_ties(connection)
        site.state.query("SELECT 1")  # opened while there is time
        data, descriptors, _flags, _address = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
        connection.close()
        if not data:
            os._exit(0)
        task = msgspec.json.decode(data, type=_Task)
        supervise(
            site,
            container_rows.get(site.state, task.container_id),
            socket.socket(fileno=descriptors[0]),
            owner=ProcessId(task.owner_pid, task.owner_start),
            attach=task.attach,
            debug=task.debug,
        )
    finally:
        os._exit(1)
