"""Requests about directories: listings, with or without attributes."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import protocol
from plugengine_fuse_union.counters import KNOWN
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.listing import DT_DIR, listing
from plugengine_fuse_union.lookup import look_up
from plugengine_fuse_union.nodes import DirNode
from plugengine_fuse_union.protocol import ATTR, BODY, DIRENT, ENTRY, Opcode
from plugengine_fuse_union.replies import NOTHING, Replies

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection, Handler

_FOPEN_CACHE_DIR: Final = 1 << 3
_DOT: Final = 1  # positions of the two entries every directory has
_DOT_DOT: Final = 2
# An entry the kernel should take the name of and nothing else.
_NO_ENTRY: Final = bytes(ENTRY.size + ATTR.size)
_ALIGN: Final = 8


class DirectoryRequests:
    """Handlers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._union = connection.union
        self._replies = Replies(connection.union)

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers which opcode."""
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.FSYNCDIR: self.fsyncdir,
        }

    def opendir(self, _nodeid: int, _end: int) -> bytes:
        """OPENDIR: not needed, as listings have positions that last; the kernel asks once and caches listings."""
        if self._connection.has(protocol.FUSE_NO_OPENDIR_SUPPORT):
            raise refused(errno.ENOSYS)
        return protocol.OPEN_OUT.pack(0, _FOPEN_CACHE_DIR | protocol.FOPEN_KEEP_CACHE, 0)

    def releasedir(self, _nodeid: int, _end: int) -> bytes:
        """RELEASEDIR."""
        return NOTHING

    def readdir(self, nodeid: int, _end: int) -> bytes:
        """READDIR."""
        return self._read(nodeid, plus=False)

    def readdirplus(self, nodeid: int, _end: int) -> bytes:
        """READDIRPLUS: every entry with attributes counts as a LOOKUP; the dots have none."""
        return self._read(nodeid, plus=True)

    def _read(self, nodeid: int, *, plus: bool) -> bytes:
        _, position, size, *_ = protocol.READ_IN.unpack_from(self._connection.buffer, BODY)
        node = self._union.directory(nodeid)
        if node.listing is not None:
            self._connection.counters[KNOWN] += 1
        parts: list[bytes] = []
        room = size
        if position < _DOT:
            room -= _append(parts, b".", DT_DIR, node.ino, _DOT, plus=plus)
        if position < _DOT_DOT:
            room -= _append(parts, b"..", DT_DIR, node.parent.ino, _DOT_DOT, plus=plus)
        fixed = DIRENT.size + (len(_NO_ENTRY) if plus else 0)
        for cookie, (name, kind, ino) in listing(self._union, node).after(position):
            used = -(-(fixed + len(name)) // _ALIGN) * _ALIGN
            if used > room:
                break
            room -= used
            if plus:
                parts.append(self._entry(node, name))
            parts.append(DIRENT.pack(ino, cookie, len(name), kind) + name + bytes(used - fixed - len(name)))
        return b"".join(parts)

    def _entry(self, parent: DirNode, name: bytes) -> bytes:
        known = parent.children.get(name)
        # The kernel has the attributes of a layer's file already, unless reading has changed the time of access.
        if known is not None and not known.upper and known.opened is None and known.kind != stat.S_IFDIR:
            return _NO_ENTRY
        try:
            found = look_up(self._union, parent, name)
            return _NO_ENTRY if found is None else self._replies.entry(*found)
        except OSError:
            return _NO_ENTRY  # the name is listed, and a look at it gives the error

    def fsyncdir(self, nodeid: int, _end: int) -> bytes:
        """FSYNCDIR."""
        if not self._union.durable:
            raise refused(errno.ENOSYS)
        node = self._union.directory(nodeid)
        if node.upper:
            os.fsync(self._union.upper_fd(node))
        return NOTHING


def _append(parts: list[bytes], name: bytes, kind: int, ino: int, cookie: int, *, plus: bool) -> int:
    if plus:
        parts.append(_NO_ENTRY)
    parts.append(DIRENT.pack(ino, cookie, len(name), kind) + name.ljust(_ALIGN, b"\0"))
    return DIRENT.size + _ALIGN + (len(_NO_ENTRY) if plus else 0)
