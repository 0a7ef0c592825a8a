"""Wait for the kernel to let go of removed files where their space is needed."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from plugengine_fuse_union.connection import Connection

_PATIENCE_MS: Final = 50


class Settler:
    """The last FORGET of a removed file may stand in the queue after the request that needs its space."""

    def __init__(
        self, connection: Connection, removed: Callable[[], Set[int]], *, patience_ms: int = _PATIENCE_MS
    ) -> None:
        self._connection = connection
        self._removed = removed  # the numbers of removed files not forgotten yet, now
        self._patience_ms = patience_ms
        self._waited: set[int] = set()
        self._busy = False

    def settle(self, end: int) -> bool:
        """Answer other requests until removed files that nobody has open are forgotten; False: there are none.

        It is waited once for each of them: a descriptor opened with O_PATH, which no request tells of, keeps the file.

        Args:
            end: Of the request in the connection's buffer, which is there again afterwards.
        """
        connection, nodes = self._connection, self._connection.union.nodes
        removed = self._removed()
        closed = {each for each in removed - self._waited if each in nodes and nodes[each].opened is None}
        if not closed or self._busy:
            return False
        self._busy = True
        self._waited = {each for each in self._waited if each in removed} | closed
        saved = bytes(connection.buffer[:end])
        poll = select.poll()
        poll.register(connection.fd, select.POLLIN)
        try:
            while closed & self._removed() and poll.poll(self._patience_ms):
                if not connection.answer_one():
                    break
        finally:
            self._busy = False
            connection.buffer[:end] = saved
        return True
