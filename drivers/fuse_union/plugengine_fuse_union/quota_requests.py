"""Keep the limit of option `size`: every request that may change what the upper directory takes is measured."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union import protocol
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.lookup import child
from plugengine_fuse_union.nodes import DirNode
from plugengine_fuse_union.opened import WRITES
from plugengine_fuse_union.protocol import BODY, Opcode
from plugengine_fuse_union.quota import BLOCK
from plugengine_fuse_union.settling import Settler

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Answer, Connection, Handler
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.quota import Quota

# Of struct fuse_write_in and fuse_copy_file_range_in, where a length is that is made smaller.
_WRITE_SIZE: Final = Struct("=I")
_WRITE_SIZE_AT: Final = BODY + 16
_COPY_LENGTH: Final = Struct("=Q")
_COPY_LENGTH_AT: Final = BODY + 40
# include/uapi/linux/falloc.h
_FALLOC_FL_KEEP_SIZE: Final = 1 << 0
_FALLOC_FL_PUNCH_HOLE: Final = 1 << 1
_FUSE_WRITE_CACHE: Final = 1 << 0  # of pages that were written through mmap(2)
_MAKES: Final = {
    Opcode.MKNOD: protocol.MKNOD_IN.size,
    Opcode.MKDIR: protocol.MKDIR_IN.size,
    Opcode.SYMLINK: 0,
    Opcode.LINK: protocol.LINK_IN.size,
    Opcode.CREATE: protocol.CREATE_IN.size,
}
_GROWS: Final = (
    *_MAKES,
    Opcode.TMPFILE,
    Opcode.OPEN,
    Opcode.SETATTR,
    Opcode.SETXATTR,
    Opcode.RENAME,
    Opcode.RENAME2,
    Opcode.WRITE,
    Opcode.FALLOCATE,
    Opcode.COPY_FILE_RANGE,
    Opcode.COPY_FILE_RANGE_64,
)
_PATIENCE_MS: Final = 5
_NODEID_BYTES: Final = 8
_FILLS_A_BLOCK: Final = frozenset({Opcode.MKDIR, Opcode.SYMLINK})
_CHANGES: Final = (Opcode.SETATTR, Opcode.REMOVEXATTR, Opcode.IOCTL)


class QuotaRequests:
    """Stands before the handlers of one connection, which has no passthrough for files of the upper directory."""

    def __init__(self, connection: Connection, quota: Quota) -> None:
        self._connection = connection
        self._union = connection.union
        self._quota = quota
        self._settler = Settler(connection, quota.lost.keys, patience_ms=_PATIENCE_MS)

    def install(self) -> None:
        """Wrap what is registered."""
        wrap = self._connection.wrap
        wrap(Opcode.OPEN, self._open)
        for opcode in _CHANGES:
            wrap(opcode, self._change)
        for opcode, skip in _MAKES.items():
            wrap(opcode, partial(self._make, skip=skip, fills=opcode in _FILLS_A_BLOCK))
        wrap(Opcode.TMPFILE, self._tmpfile)
        wrap(Opcode.SETXATTR, self._setxattr)
        for opcode in (Opcode.UNLINK, Opcode.RMDIR):
            wrap(opcode, self._remove)
        wrap(Opcode.RENAME, partial(self._rename, layout=protocol.RENAME_IN))
        wrap(Opcode.RENAME2, partial(self._rename, layout=protocol.RENAME2_IN))
        wrap(Opcode.WRITE, self._write)
        wrap(Opcode.FALLOCATE, self.fallocate)
        for opcode in (Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64):
            wrap(opcode, self._copy)
        for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET):
            wrap(opcode, self._forget)
        for opcode in _GROWS:
            wrap(opcode, self._retried)
        self._connection.register({Opcode.STATFS: self.statfs})

    def _retried(self, inner: Handler) -> Handler:
        """Let a request wait for room that is about to come: the kernel forgets a removed file just after its close."""

        def retried(nodeid: int, end: int) -> Answer:
            try:
                return inner(nodeid, end)
            except OSError as exc:
                if exc.errno != errno.ENOSPC or not self._settler.settle(end):
                    raise
            return inner(nodeid, end)

        return retried

    # --- counting

    def _node(self, nodeid: int) -> Node:
        node = self._union.get(nodeid)
        return node if node.successor is None else node.successor

    @contextmanager
    def _measured(self, *nodes: Node) -> Iterator[None]:
        """Count by how much these nodes grow or shrink; a copy-up has counted the copy by itself."""
        quota = self._quota
        quota.fresh.clear()
        touched = set(nodes)
        for node in nodes:
            while not node.upper and node is not self._union.root:
                node = node.parent  # which gets an entry more, and may have to be copied up itself
                touched.add(node)
        before = {node: self._blocks(node) for node in touched if node.upper}
        try:
            yield
        finally:
            # A directory that was copied up has been counted empty.
            for node, blocks in quota.fresh.items():
                if node in touched or isinstance(node, DirNode):
                    before.setdefault(node, blocks)
            quota.fresh.clear()
            for node, blocks in before.items():
                if node.fd >= 0 or not node.gone:
                    quota.count(node.nodeid, blocks, self._blocks(node))

    def _blocks(self, node: Node) -> int:
        """Return the blocks of an upper node; the root does not count."""
        return 0 if node is self._union.root else self._union.stored(node).st_blocks

    def _held(self, node: Node) -> int:
        """Return the blocks of an upper node as they are counted."""
        counted = self._quota.counted.get(node.nodeid)
        return self._blocks(node) if counted is None else counted

    def _lose(self, node: Node | None, blocks: int) -> None:
        """A node has lost a name: what it takes is free at once, or when the last process that has it open lets go."""
        if node is None or not node.gone or not node.upper:
            return
        if node.nodeid in self._union.nodes:
            self._quota.lost[node.nodeid] = self._held(node)
        else:
            self._quota.used -= blocks * BLOCK

    # --- handlers

    def _change(self, inner: Handler) -> Handler:
        def change(nodeid: int, end: int) -> Answer:
            with self._measured(self._node(nodeid)):
                return inner(nodeid, end)

        return change

    def _open(self, inner: Handler) -> Handler:
        changed = self._change(inner)

        def opened(nodeid: int, end: int) -> Answer:
            flags, _ = protocol.OPEN_IN.unpack_from(self._connection.buffer, BODY)
            return (changed if flags & WRITES else inner)(nodeid, end)

        return opened

    def _make(self, inner: Handler, *, skip: int, fills: bool) -> Handler:
        def make(nodeid: int, end: int) -> Answer:
            name = self._connection.name(BODY + skip, end).partition(b"\0")[0]
            parent = self._union.directory(nodeid)
            # One block for an entry more of the directory, so that this does not pass the limit either.
            self._quota.require(self._quota.unit * (1 + fills))
            before = parent.children.get(name)
            with self._measured(parent):
                try:
                    return inner(nodeid, end)
                finally:
                    self._made(parent, name, before)

        return make

    def _made(self, parent: DirNode, name: bytes, before: Node | None) -> None:
        node = parent.children.get(name)
        # A further name of a file costs nothing; a file that was made without one is no longer lost.
        if node is None or node is before or node in self._quota.fresh:
            return
        if self._quota.lost.pop(node.nodeid, None) is None and not node.link:
            self._quota.used += self._blocks(node) * BLOCK

    def _tmpfile(self, inner: Handler) -> Handler:
        def tmpfile(nodeid: int, end: int) -> Answer:
            self._quota.require(self._quota.unit)
            with self._measured(self._union.directory(nodeid)):
                answer = inner(nodeid, end)
            if isinstance(answer, bytes):
                self._quota.lost[int.from_bytes(answer[:_NODEID_BYTES], sys.byteorder)] = 0
            return answer

        return tmpfile

    def _setxattr(self, inner: Handler) -> Handler:
        def setxattr(nodeid: int, end: int) -> Answer:
            self._quota.require(self._quota.whole(end - BODY))
            with self._measured(self._node(nodeid)):
                return inner(nodeid, end)

        return setxattr

    def _remove(self, inner: Handler) -> Handler:
        def remove(nodeid: int, end: int) -> Answer:
            parent = self._union.directory(nodeid)
            node = child(self._union, parent, self._connection.name(BODY, end))
            blocks = self._held(node) if node is not None and node.upper else 0
            with self._measured(parent):
                answer = inner(nodeid, end)
            self._lose(node, blocks)
            return answer

        return remove

    def _rename(self, inner: Handler, *, layout: Struct) -> Handler:
        def rename(nodeid: int, end: int) -> Answer:
            target, *_ = layout.unpack_from(self._connection.buffer, BODY)
            parents = (self._union.directory(nodeid), self._union.directory(target))
            old, _, new = self._connection.name(BODY + layout.size, end).partition(b"\0")
            node, other = child(self._union, parents[0], old), child(self._union, parents[1], new)
            blocks = self._held(other) if other is not None and other.upper else 0
            # Marks set on what moves may take a block of their own.
            with self._measured(*parents, *(each for each in (node, other) if each is not None)):
                answer = inner(nodeid, end)
            self._lose(other, blocks)
            return answer

        return rename

    def _write(self, inner: Handler) -> Handler:
        def write(nodeid: int, end: int) -> Answer:
            buffer = self._connection.buffer
            fh, offset, size, flags, *_ = protocol.WRITE_IN.unpack_from(buffer, BODY)
            status = os.fstat(fh)
            fitting = self._quota.fitting(status, offset, size)
            if fitting < size:
                # Of dirty pages the kernel takes no part for an answer.
                if flags & _FUSE_WRITE_CACHE:
                    raise refused(errno.ENOSPC)
                _WRITE_SIZE.pack_into(buffer, _WRITE_SIZE_AT, fitting)
            try:
                return inner(nodeid, end)
            finally:
                self._quota.written(self._node(nodeid).nodeid, status, offset, os.fstat(fh))

        return write

    def fallocate(self, inner: Handler) -> Handler:
        """Wrap FALLOCATE; space beyond the end of a file would be taken for its holes' and is refused."""

        def fallocate(nodeid: int, end: int) -> Answer:
            fh, offset, length, mode, _ = protocol.FALLOCATE_IN.unpack_from(self._connection.buffer, BODY)
            status = os.fstat(fh)
            if not mode & _FALLOC_FL_PUNCH_HOLE:
                if mode & _FALLOC_FL_KEEP_SIZE and offset + length > status.st_size:
                    raise refused(errno.EOPNOTSUPP)
                self._quota.require(self._quota.growth(status, offset, offset + length))
            try:
                return inner(nodeid, end)
            finally:
                self._quota.count(self._node(nodeid).nodeid, status.st_blocks, os.fstat(fh).st_blocks)

        return fallocate

    def _copy(self, inner: Handler) -> Handler:
        def copy(nodeid: int, end: int) -> Answer:
            buffer = self._connection.buffer
            _, _, target, fh, offset, length, _ = protocol.COPY_FILE_RANGE_IN.unpack_from(buffer, BODY)
            status = os.fstat(fh)
            _COPY_LENGTH.pack_into(buffer, _COPY_LENGTH_AT, self._quota.fitting(status, offset, length))
            try:
                return inner(nodeid, end)
            finally:
                self._quota.written(self._node(target).nodeid, status, offset, os.fstat(fh))

        return copy

    def _forget(self, inner: Handler) -> Handler:
        def forget(nodeid: int, end: int) -> Answer:
            answer = inner(nodeid, end)
            quota, nodes = self._quota, self._union.nodes
            for lost in [each for each in quota.lost if each not in nodes]:
                quota.used -= quota.lost.pop(lost) * BLOCK
            # A batch has no node of its own.
            for forgotten in [each for each in ((nodeid,) if nodeid else quota.counted) if each not in nodes]:
                quota.counted.pop(forgotten, None)
            return answer

        return forget

    def statfs(self, _nodeid: int, _end: int) -> bytes:
        """STATFS: the limit is the size of the filesystem."""
        status = os.statvfs(self._union.root.fd)
        free = self._quota.free // status.f_frsize
        return protocol.STATFS_OUT.pack(
            max(self._quota.limit // status.f_frsize, 1),
            min(status.f_bfree, free),
            min(status.f_bavail, free),
            status.f_files,
            status.f_ffree,
            status.f_bsize,
            status.f_namemax,
            status.f_frsize,
        )
