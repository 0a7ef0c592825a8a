"""Decide how each file is open: passed through to its backing file by the kernel, or served here."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from plugengine.kernel.fuse import fuse_backing_close, fuse_backing_open

from plugengine_fuse_union import protocol
from plugengine_fuse_union.counters import PASSED_OPENS
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.nodes import Node
from plugengine_fuse_union.opened import Opened
from plugengine_fuse_union.protocol import OPEN_OUT
from plugengine_fuse_union.supersede import supersede

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection

_ACCESS: Final = os.O_ACCMODE | os.O_APPEND
# The backing file's filesystem, or this process, may not be passed through.
_NO_PASSTHROUGH: Final = frozenset({errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL})


class Handles:
    """The open files of one connection.

    The kernel wants all opens of one node in one mode and, passed through, on one backing file (EIO otherwise).
    So a node is passed through or served here from its first open to its last close, and a file that is copied up
    while readers have its layer's file open goes on as a new node: see `supersede`.
    """

    def __init__(self, connection: Connection, *, most_backed: int) -> None:
        """Serve the open files of a connection.

        Args:
            connection: After `negotiate`.
            most_backed: Backing files that stay registered while nobody has them open.
        """
        self._connection = connection
        self._most_backed = most_backed
        self._union = connection.union
        self._passes = connection.has(protocol.FUSE_PASSTHROUGH)
        # Nodes with a registered backing file, oldest first; it stays for the next reader after the last close.
        self._backed: dict[Node, None] = {}
        connection.union.on_drop = self.drop
        if self._passes and connection.union.quota is None:
            # A file that is open for writing here could not be told from one that still is elsewhere; see `restless`.
            connection.union.made_flags = os.O_RDONLY
        # Pages cached before a file was passed through would be stale, so the cache is kept only without.
        self._cached_flags = protocol.FOPEN_NOFLUSH | (0 if self._passes else protocol.FOPEN_KEEP_CACHE)

    def open(self, node: Node, flags: int, *, fd: int = -1, made: bool = False) -> bytes:
        """Open a node once more and return the answer.

        Args:
            node: A regular file, copied up if `flags` say write.
            flags: O_* of open(2).
            fd: A descriptor of the file, as `create.create` makes it, taken over; -1: opened if needed.
            made: The file is a new one, which has no capabilities.

        Raises:
            OSError: ESTALE after `supersede`; the kernel tries again with a new lookup.
        """
        opened = node.opened
        writes = bool(flags & os.O_ACCMODE)
        if opened is not None and opened.count == 0 and (writes or opened.upper != node.whole):
            self._close(node, opened)
            opened = None
        kept = opened is None and fd < 0 and node.kept >= 0 and not writes
        if kept:
            fd, node.kept = node.kept, -1
        try:
            if opened is None:
                opened, fd = self._first(node, fd, flags, made=made)
            elif opened.backing and opened.upper != node.whole:
                if not node.gone:
                    supersede(self._union, node)
                raise refused(errno.ESTALE)
            elif opened.backing and writes:
                os.close(self._union.open_data(node, flags & _ACCESS))  # or say why not: append-only, immutable
            if not opened.backing:
                fd = self._served(node, fd, flags)
            opened.count += 1
            opened.writers += writes
            maps = flags & os.O_ACCMODE == os.O_RDWR  # what may be mapped to be written
            if opened.backing:
                self._connection.counters[PASSED_OPENS] += 1
                if maps:
                    self._make_restless(node)
                return opened.answer
            opened.serve(fd)
            handle, fd = fd, -1
            # Where closing flushes, the kernel hands over what was written to a mapping; see `fuse_flush` of Linux.
            return OPEN_OUT.pack(handle, self._cached_flags & (~protocol.FOPEN_NOFLUSH if maps else -1), 0)
        finally:
            if fd >= 0:
                self._put_away(node, fd, again=made or (kept and not writes))

    def _served(self, node: Node, fd: int, flags: int) -> int:
        """Return the descriptor to serve a handle by, in place of what there is."""
        if fd >= 0 and flags & os.O_ACCMODE and self._union.made_flags & os.O_ACCMODE == os.O_RDONLY:
            os.close(fd)
            fd = -1
        if fd >= 0:
            return fd
        # The kernel reads a page before it changes a part of it, so what is written to is also read.
        return self._union.open_data(node, flags & os.O_APPEND | os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY)

    def _put_away(self, node: Node, fd: int, *, again: bool) -> None:
        if again and node.fd < 0:
            self._union.keep(node, fd)
        else:
            os.close(fd)

    def _first(self, node: Node, fd: int, flags: int, *, made: bool) -> tuple[Opened, int]:
        opened = Opened(upper=node.whole)
        # What the kernel writes by itself could not be counted.
        if self._passes and not (node.upper and self._union.quota is not None):
            if fd < 0:
                # The kernel opens the file by itself and does not ask whether it is append-only; this does.
                fd = self._union.open_data(node, flags & _ACCESS)
            opened.no_capability = made
            self._register(node, opened, fd)
        node.opened = opened
        return opened, fd

    def _register(self, node: Node, opened: Opened, fd: int) -> None:
        try:
            opened.backing = fuse_backing_open(self._connection.fd, fd)
        except OSError as exc:
            if exc.errno not in _NO_PASSTHROUGH:
                raise
            if exc.errno == errno.EPERM:
                self._passes = False
            return
        opened.answer = OPEN_OUT.pack(0, protocol.FOPEN_PASSTHROUGH | protocol.FOPEN_NOFLUSH, opened.backing)
        self._backed[node] = None
        if len(self._backed) > self._most_backed:
            self._let_oldest_go()

    def _let_oldest_go(self) -> None:
        node = next(iter(self._backed))
        del self._backed[node]
        if node.opened is None:
            return
        if node.opened.count == 0:
            self._close(node, node.opened)
        else:
            self._backed[node] = None

    def _make_restless(self, node: Node) -> None:
        if not node.restless:
            node.restless = True
            if node.nodeid:
                self._union.stale.append(node.nodeid)

    def release(self, node: Node, handle: int, flags: int) -> None:
        """Take back one open, that was made with these O_*."""
        opened = node.opened
        if opened is None:
            return
        opened.count -= 1
        opened.writers -= bool(flags & os.O_ACCMODE)
        if handle:
            opened.part_with(handle)
            os.close(handle)
        if opened.count == 0 and (node.gone or not opened.backing):
            self._close(node, opened)

    def drop(self, node: Node) -> None:
        """Let go of the backing file of a node that is not open."""
        if node.opened is not None and node.opened.count == 0:
            self._close(node, node.opened)

    def _close(self, node: Node, opened: Opened) -> None:
        node.opened = None
        self._backed.pop(node, None)
        if opened.backing:
            fuse_backing_close(self._connection.fd, opened.backing)
