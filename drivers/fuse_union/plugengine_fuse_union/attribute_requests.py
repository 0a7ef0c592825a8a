"""Requests about what a file is: attributes, links' targets, xattrs and the filesystem's size."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from plugengine_fuse_union import attributes, protocol, xattrs
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.nodes import Node
from plugengine_fuse_union.protocol import BODY, Opcode
from plugengine_fuse_union.replies import NOTHING, Replies
from plugengine_fuse_union.transfer import CAPABILITY

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection, Handler

_NS = 1_000_000_000
_CAPABILITY = os.fsencode(CAPABILITY)
_CHANGES = (
    protocol.FATTR_MODE
    | protocol.FATTR_UID
    | protocol.FATTR_GID
    | protocol.FATTR_SIZE
    | protocol.FATTR_ATIME
    | protocol.FATTR_MTIME
)
_NOW = protocol.FATTR_ATIME_NOW | protocol.FATTR_MTIME_NOW


class AttributeRequests:
    """Handlers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._union = connection.union
        self._replies = Replies(connection.union)

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers which opcode."""
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.STATX: self.statx,
            Opcode.READLINK: self.readlink,
            Opcode.STATFS: self.statfs,
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    def _node(self, nodeid: int) -> Node:
        node = self._union.get(nodeid)
        return node if node.successor is None else node.successor

    def getattr(self, nodeid: int, _end: int) -> bytes:
        """GETATTR."""
        return self._replies.attr(self._union.nodes.get(nodeid) or self._union.get(nodeid))

    def statx(self, nodeid: int, _end: int) -> bytes:
        """STATX, sent when somebody asks for the time of birth."""
        return self._replies.statx(self._union.get(nodeid))

    def setattr(self, nodeid: int, _end: int) -> bytes:
        """SETATTR: the owner first, for it clears setuid; the times last, for the size changes them."""
        valid, _, size, atime, mtime, atime_ns, mtime_ns, mode, uid, gid = protocol.SETATTR_IN.unpack_from(
            self._connection.buffer, BODY
        )
        union, node = self._union, self._node(nodeid)
        if valid & protocol.FATTR_SIZE:
            capable = not valid & protocol.FATTR_KILL_SUIDGID
            attributes.set_size(union, node, size, self._connection.requester(capable=capable))
        if valid & (protocol.FATTR_UID | protocol.FATTR_GID):
            uid, gid = uid if valid & protocol.FATTR_UID else -1, gid if valid & protocol.FATTR_GID else -1
            attributes.set_owner(union, node, uid, gid)
        if valid & protocol.FATTR_MODE:
            attributes.set_mode(union, node, mode)
        if not valid & _CHANGES:
            attributes.set_nothing(union, node, self._connection.requester(capable=False))
        if valid & _NOW == _NOW:
            attributes.set_times_now(union, node)
        elif valid & (protocol.FATTR_ATIME | protocol.FATTR_MTIME):
            now = attributes.now_ns()
            attributes.set_times(
                union,
                node,
                _time(valid, protocol.FATTR_ATIME, protocol.FATTR_ATIME_NOW, now, atime * _NS + atime_ns),
                _time(valid, protocol.FATTR_MTIME, protocol.FATTR_MTIME_NOW, now, mtime * _NS + mtime_ns),
            )
        return self._replies.attr(self._union.get(nodeid))

    def readlink(self, nodeid: int, _end: int) -> bytes:
        """READLINK."""
        node = self._node(nodeid)
        if node.fd >= 0:
            return os.readlink(b"", dir_fd=node.fd)
        dir_fd, name = self._union.place(node)
        return os.readlink(name, dir_fd=dir_fd)

    def statfs(self, _nodeid: int, _end: int) -> bytes:
        """STATFS: of the upper directory, which is what can fill up."""
        root = self._union.root
        status = os.statvfs(root.fd if root.upper else root.lowers[0].fd)
        return protocol.STATFS_OUT.pack(
            status.f_blocks,
            status.f_bfree,
            status.f_bavail,
            status.f_files,
            status.f_ffree,
            status.f_bsize,
            status.f_namemax,
            status.f_frsize,
        )

    def getxattr(self, nodeid: int, end: int) -> bytes | int:
        """GETXATTR."""
        size, _ = protocol.GETXATTR_IN.unpack_from(self._connection.buffer, BODY)
        name = self._connection.name(BODY + protocol.GETXATTR_IN.size, end)
        node = self._node(nodeid)
        if node.opened is not None and node.opened.no_capability and name == _CAPABILITY:
            return errno.ENODATA
        return _sized(xattrs.get(self._union, node, os.fsdecode(name)), size)

    def listxattr(self, nodeid: int, _end: int) -> bytes:
        """LISTXATTR."""
        size, _ = protocol.GETXATTR_IN.unpack_from(self._connection.buffer, BODY)
        names = xattrs.list_names(self._union, self._node(nodeid))
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)

    def setxattr(self, nodeid: int, end: int) -> bytes:
        """SETXATTR."""
        if self._connection.has(protocol.FUSE_SETXATTR_EXT):
            size, flags, extra, _ = protocol.SETXATTR_IN.unpack_from(self._connection.buffer, BODY)
            start = BODY + protocol.SETXATTR_IN.size
        else:
            size, flags = protocol.SETXATTR_IN_SHORT.unpack_from(self._connection.buffer, BODY)
            start, extra = BODY + protocol.SETXATTR_IN_SHORT.size, 0
        value = self._connection.buffer[end - size : end]
        name = os.fsdecode(self._connection.name(start, end - size))
        node = self._node(nodeid)
        if node.opened is not None:
            node.opened.no_capability = False
        xattrs.set_value(self._union, node, name, value, flags)
        if extra & protocol.FUSE_SETXATTR_ACL_KILL_SGID:
            attributes.kill_setgid(self._union, node)
        return NOTHING

    def removexattr(self, nodeid: int, end: int) -> bytes:
        """REMOVEXATTR."""
        name = os.fsdecode(self._connection.name(BODY, end))
        xattrs.remove(self._union, self._node(nodeid), name)
        return NOTHING


def _time(valid: int, given: int, now_flag: int, now: int, value: int) -> int | None:
    if not valid & given:
        return None
    return now if valid & now_flag else value


def _sized(value: bytes, size: int) -> bytes:
    """Answer a question for the size, or give the value if it fits."""
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise refused(errno.ERANGE)
    return value
