"""Requests about open files: open, create, close, and the data the kernel does not move by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from plugengine.kernel.files import fallocate

from plugengine_fuse_union import attributes, create, privileges, protocol
from plugengine_fuse_union.copyup import copy_up
from plugengine_fuse_union.counters import KNOWN, PASSED_OPENS, READ_BYTES, WRITTEN_BYTES
from plugengine_fuse_union.create import Caller
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.nodes import Node
from plugengine_fuse_union.opened import WRITES
from plugengine_fuse_union.protocol import BODY, Opcode
from plugengine_fuse_union.replies import NOTHING, Replies

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection, Handler
    from plugengine_fuse_union.handles import Handles

_T = TypeVar("_T")
_CREATE_MODE: Final = 0o7777
_LONGEST_COPY: Final = 1 << 30  # the answer has 32 bits, and other requests wait


class FileRequests:
    """Handlers of one connection."""

    def __init__(self, connection: Connection, handles: Handles) -> None:
        self._connection = connection
        self._union = connection.union
        self._replies = Replies(connection.union)
        self._handles = handles

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers which opcode."""
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.RELEASE: self.release,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FSYNC: self.fsync,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range_64,
        }

    def open(self, nodeid: int, _end: int) -> bytes:
        """OPEN; a file of a layer that is opened for writing is copied up first."""
        flags, open_flags = protocol.OPEN_IN.unpack_from(self._connection.buffer, BODY)
        node = self._union.nodes.get(nodeid) or self._union.get(nodeid)
        opened = node.opened
        if opened is not None and opened.answer and not flags & WRITES:
            opened.count += 1
            counters = self._connection.counters
            counters[KNOWN] += 1
            counters[PASSED_OPENS] += 1
            return opened.answer
        if node.successor is not None:
            raise refused(errno.ESTALE)  # the kernel looks the name up again and finds the successor
        if flags & WRITES and not node.whole:
            copy_up(self._union, node, size=0 if flags & os.O_TRUNC else None)
        if flags & os.O_TRUNC:
            kernel_tells = self._connection.has(protocol.FUSE_HANDLE_KILLPRIV_V2)
            capable = not open_flags & protocol.FUSE_OPEN_KILL_SUIDGID if kernel_tells else None
            attributes.set_size(self._union, node, 0, self._connection.requester(capable=capable))
        return self._handles.open(node, flags)

    def create(self, nodeid: int, end: int) -> bytes:
        """CREATE: make and open in one."""
        flags, mode, umask, _ = protocol.CREATE_IN.unpack_from(self._connection.buffer, BODY)
        name = self._connection.name(BODY + protocol.CREATE_IN.size, end)
        parent = self._union.directory(nodeid)
        (node, status), fd = create.create(self._union, parent, name, mode & _CREATE_MODE, self._caller(umask))
        return self._created(node, fd, flags, status)

    def tmpfile(self, nodeid: int, _end: int) -> bytes:
        """TMPFILE: a file without a name, which LINK may give one."""
        flags, mode, umask, _ = protocol.CREATE_IN.unpack_from(self._connection.buffer, BODY)
        parent = self._union.directory(nodeid)
        node, fd = create.tmpfile(self._union, parent, mode & _CREATE_MODE, self._caller(umask))
        return self._created(node, fd, flags, os.fstat(fd))

    def _created(self, node: Node, fd: int, flags: int, status: os.stat_result) -> bytes:
        opened = self._handles.open(node, flags, fd=fd, made=True)
        return self._replies.made(node, status) + opened

    def _caller(self, umask: int) -> Caller:
        return Caller(self._union, self._connection.uid, self._connection.gid, umask)

    def release(self, nodeid: int, _end: int) -> bytes:
        """RELEASE: the last descriptor of one open is closed."""
        fh, flags = protocol.RELEASE_IN.unpack_from(self._connection.buffer, BODY)
        self._handles.release(self._union.get(nodeid), fh, flags)
        return NOTHING

    def read(self, nodeid: int, _end: int) -> bytes:
        """READ, for files that are not passed through."""
        fh, offset, size, *_ = protocol.READ_IN.unpack_from(self._connection.buffer, BODY)
        with self._data(nodeid, fh, os.O_RDONLY) as fd:
            data = os.pread(fd, size, offset)
        self._connection.counters[READ_BYTES] += len(data)
        return data

    def write(self, nodeid: int, _end: int) -> bytes:
        """WRITE, for files that are not passed through."""
        fh, offset, size, flags, *_ = protocol.WRITE_IN.unpack_from(self._connection.buffer, BODY)
        start = BODY + protocol.WRITE_IN.size
        with self._data(nodeid, fh, os.O_RDWR) as fd:
            data = memoryview(self._connection.buffer)[start : start + size]
            capable = not flags & protocol.FUSE_WRITE_KILL_SUIDGID
            done = self._change(nodeid, fd, lambda: os.pwrite(fd, data, offset), capable=capable)
        self._connection.counters[WRITTEN_BYTES] += done
        return protocol.WRITE_OUT.pack(done, 0)

    def fsync(self, nodeid: int, _end: int) -> bytes:
        """FSYNC; where durability was given up the kernel is told never to ask again."""
        if not self._union.durable:
            raise refused(errno.ENOSYS)
        fh, flags, _ = protocol.FSYNC_IN.unpack_from(self._connection.buffer, BODY)
        with self._data(nodeid, fh, os.O_RDONLY) as fd:
            # The name of a copy is newer than its size, which is all that fdatasync(2) looks at.
            if flags & protocol.FUSE_FSYNC_FDATASYNC and nodeid not in self._union.fresh_copies:
                os.fdatasync(fd)
            else:
                os.fsync(fd)
                self._union.fresh_copies.discard(nodeid)
        return NOTHING

    def fallocate(self, nodeid: int, _end: int) -> bytes:
        """FALLOCATE."""
        fh, offset, length, mode, _ = protocol.FALLOCATE_IN.unpack_from(self._connection.buffer, BODY)
        with self._data(nodeid, fh, os.O_RDWR) as fd:
            self._change(nodeid, fd, lambda: fallocate(fd, mode, offset, length))
        return NOTHING

    def lseek(self, nodeid: int, _end: int) -> bytes:
        """LSEEK, for SEEK_DATA and SEEK_HOLE."""
        fh, offset, whence, _ = protocol.LSEEK_IN.unpack_from(self._connection.buffer, BODY)
        with self._data(nodeid, fh, os.O_RDONLY) as fd:
            return protocol.LSEEK_OUT.pack(os.lseek(fd, offset, whence))

    def copy_file_range(self, nodeid: int, _end: int) -> bytes:
        """COPY_FILE_RANGE."""
        return protocol.WRITE_OUT.pack(self._copy(nodeid), 0)

    def copy_file_range_64(self, nodeid: int, _end: int) -> bytes:
        """COPY_FILE_RANGE_64: the same with a 64-bit answer (7.45)."""
        return protocol.COPY_FILE_RANGE_OUT.pack(self._copy(nodeid))

    def _copy(self, nodeid: int) -> int:
        source_fh, source_at, target_id, target_fh, target_at, length, _ = protocol.COPY_FILE_RANGE_IN.unpack_from(
            self._connection.buffer, BODY
        )
        with (
            self._data(nodeid, source_fh, os.O_RDONLY) as source,
            self._data(target_id, target_fh, os.O_RDWR) as target,
        ):
            count = min(length, _LONGEST_COPY)
            return self._change(
                target_id, target, lambda: os.copy_file_range(source, target, count, source_at, target_at)
            )

    def _change(self, nodeid: int, fd: int, act: Callable[[], _T], *, capable: bool | None = None) -> _T:
        return privileges.change(self._union, self._node(nodeid), fd, self._connection.requester(capable=capable), act)

    def _node(self, nodeid: int) -> Node:
        node = self._union.get(nodeid)
        return node if node.successor is None else node.successor

    @contextmanager
    def _data(self, nodeid: int, fh: int, flags: int) -> Iterator[int]:
        """Lend a descriptor of the file: the handle's own, or a new one where the kernel moves the data."""
        if fh:
            yield fh
            return
        fd = self._union.open_data(self._node(nodeid), flags)
        try:
            yield fd
        finally:
            os.close(fd)
