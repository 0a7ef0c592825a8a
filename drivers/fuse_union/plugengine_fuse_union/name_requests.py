"""Requests about names: look up, make, link, move and remove."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import create, protocol, remove
from plugengine_fuse_union.counters import KNOWN
from plugengine_fuse_union.create import Caller
from plugengine_fuse_union.listing import missed
from plugengine_fuse_union.lookup import look_up
from plugengine_fuse_union.nodes import DirNode
from plugengine_fuse_union.protocol import BODY, Opcode
from plugengine_fuse_union.rename import rename
from plugengine_fuse_union.replies import NEGATIVE, NOTHING, Replies, decode_device

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection, Handler

_NAME_MAX: Final = 255  # limits.h; what is longer is an error and not absent


class NameRequests:
    """Handlers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._union = connection.union
        self._replies = Replies(connection.union)

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers which opcode."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
        }

    def lookup(self, nodeid: int, end: int) -> bytes:
        """LOOKUP; an answer without a node is remembered by the kernel like any other."""
        union = self._union
        parent = union.nodes.get(nodeid)
        if type(parent) is not DirNode:
            parent = union.directory(nodeid)
        name = self._connection.buffer[BODY : end - 1]
        made = parent.listing
        if made is not None and name not in made.items and name not in parent.children and len(name) <= _NAME_MAX:
            self._connection.counters[KNOWN] += 1
            return NEGATIVE
        found = look_up(union, parent, name)
        if found is None:
            missed(union, parent)
            return NEGATIVE
        return self._replies.entry(*found)

    def forget(self, nodeid: int, _end: int) -> None:
        """FORGET has no answer."""
        (count,) = protocol.FORGET_IN.unpack_from(self._connection.buffer, BODY)
        self._union.forget(nodeid, count)

    def batch_forget(self, _nodeid: int, end: int) -> None:
        """BATCH_FORGET has no answer."""
        start = BODY + protocol.BATCH_FORGET_IN.size
        view = memoryview(self._connection.buffer)[start:end]
        for number, count in protocol.FORGET_ONE.iter_unpack(view):
            self._union.forget(number, count)

    def _caller(self, umask: int = 0) -> Caller:
        return Caller(self._union, self._connection.uid, self._connection.gid, umask)

    def mknod(self, nodeid: int, end: int) -> bytes:
        """MKNOD."""
        mode, device, umask, _ = protocol.MKNOD_IN.unpack_from(self._connection.buffer, BODY)
        name = self._connection.name(BODY + protocol.MKNOD_IN.size, end)
        parent = self._union.directory(nodeid)
        number = decode_device(device)
        return self._replies.entry(*create.mknod(self._union, parent, name, mode, number, self._caller(umask)))

    def mkdir(self, nodeid: int, end: int) -> bytes:
        """MKDIR."""
        mode, umask = protocol.MKDIR_IN.unpack_from(self._connection.buffer, BODY)
        name = self._connection.name(BODY + protocol.MKDIR_IN.size, end)
        parent = self._union.directory(nodeid)
        return self._replies.entry(*create.mkdir(self._union, parent, name, stat.S_IMODE(mode), self._caller(umask)))

    def symlink(self, nodeid: int, end: int) -> bytes:
        """SYMLINK."""
        name, _, target = self._connection.name(BODY, end).partition(b"\0")
        parent = self._union.directory(nodeid)
        return self._replies.entry(*create.symlink(self._union, parent, name, target, self._caller()))

    def link(self, nodeid: int, end: int) -> bytes:
        """LINK."""
        (source,) = protocol.LINK_IN.unpack_from(self._connection.buffer, BODY)
        name = self._connection.name(BODY + protocol.LINK_IN.size, end)
        node = self._union.get(source)
        if node.successor is not None:
            node = node.successor
        return self._replies.entry(create.link(self._union, node, self._union.directory(nodeid), name))

    def unlink(self, nodeid: int, end: int) -> bytes:
        """UNLINK."""
        remove.unlink(self._union, self._union.directory(nodeid), self._connection.name(BODY, end))
        return NOTHING

    def rmdir(self, nodeid: int, end: int) -> bytes:
        """RMDIR."""
        remove.rmdir(self._union, self._union.directory(nodeid), self._connection.name(BODY, end))
        return NOTHING

    def rename(self, nodeid: int, end: int) -> bytes:
        """RENAME."""
        (target,) = protocol.RENAME_IN.unpack_from(self._connection.buffer, BODY)
        return self._rename(nodeid, target, 0, BODY + protocol.RENAME_IN.size, end)

    def rename2(self, nodeid: int, end: int) -> bytes:
        """RENAME2."""
        target, flags, _ = protocol.RENAME2_IN.unpack_from(self._connection.buffer, BODY)
        return self._rename(nodeid, target, flags, BODY + protocol.RENAME2_IN.size, end)

    def _rename(self, source: int, target: int, flags: int, start: int, end: int) -> bytes:
        old, _, new = self._connection.name(start, end).partition(b"\0")
        union = self._union
        rename(union, union.directory(source), old, union.directory(target), new, flags)
        return NOTHING
