"""One FUSE connection straight on /dev/fuse: agree with the kernel on INIT, read requests, write answers."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from plugengine_fuse_union import protocol
from plugengine_fuse_union.complaints import Complaints
from plugengine_fuse_union.counters import MOST_OPCODES, Counters, private_counters
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.incoming import requests
from plugengine_fuse_union.nodes import path_of
from plugengine_fuse_union.privileges import Requester
from plugengine_fuse_union.protocol import BODY, IN_HEADER, OUT_HEADER, OWNER, REQUEST, Opcode
from plugengine_fuse_union.pruning import Pruner
from plugengine_fuse_union.settling import Settler

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

# What a handler returns: an answer; a refusal (an errno) that is too common to be worth an exception; or None, as
# the request has no answer.
Answer: TypeAlias = "bytes | int | None"
Handler = Callable[[int, int], Answer]  # of a node's number, and where the request ends in the buffer

_MAX_WRITE: Final = 1 << 20
_PAGE: Final = 4096
_MAX_PAGES: Final = _MAX_WRITE // _PAGE
_MAX_BACKGROUND: Final = 64
_CONGESTION: Final = 48
_EXACT_TIME_NS: Final = 1
_NODEID_BYTES: Final = 8
# One stacked filesystem: ours. Backing files must then lie on a plain one, and an overlay fits on top of us.
_STACK_DEPTH: Final = 1

_WANTED: Final = (
    protocol.FUSE_ASYNC_READ
    | protocol.FUSE_ATOMIC_O_TRUNC
    | protocol.FUSE_BIG_WRITES
    | protocol.FUSE_DONT_MASK
    | protocol.FUSE_HAS_IOCTL_DIR
    | protocol.FUSE_DO_READDIRPLUS
    | protocol.FUSE_READDIRPLUS_AUTO
    | protocol.FUSE_ASYNC_DIO
    | protocol.FUSE_PARALLEL_DIROPS
    | protocol.FUSE_POSIX_ACL
    | protocol.FUSE_MAX_PAGES
    | protocol.FUSE_CACHE_SYMLINKS
    | protocol.FUSE_NO_OPENDIR_SUPPORT
    | protocol.FUSE_EXPLICIT_INVAL_DATA
    | protocol.FUSE_HANDLE_KILLPRIV_V2
    | protocol.FUSE_SETXATTR_EXT
    | protocol.FUSE_INIT_EXT
)
# What has a nodeid in front of its answer and counts as a reference to it.
_ENTRIES: Final = frozenset(
    {Opcode.LOOKUP, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.LINK, Opcode.CREATE, Opcode.TMPFILE}
)
# Answers that mean trouble on this side, not a mistake of the caller.
_WORTH_A_LINE: Final = frozenset({errno.EIO, errno.EBADF, errno.EMFILE, errno.ENFILE, errno.EFAULT})


class Connection:
    """The kernel's end of one mount; not thread-safe."""

    def __init__(self, fd: int, union: Union) -> None:
        self.fd = fd
        self.union = union
        # Memory that exists only as far as requests reach: half a millisecond and a megabyte less than a bytearray.
        self.buffer = mmap.mmap(-1, _MAX_WRITE + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.flags = 0  # INIT flags agreed on
        self.minor = 0
        self.counters: Counters = private_counters()
        self._complaints = Complaints()
        self._settler = Settler(self, lambda: union.removed)
        self._handlers: list[Handler] = [_unknown] * MOST_OPCODES
        self._answer: Callable[[int], None] = _not_serving

    def register(self, handlers: dict[Opcode, Handler]) -> None:
        """Add handlers; an opcode without one is answered ENOSYS, which the kernel remembers for some."""
        for opcode, handler in handlers.items():
            self._handlers[opcode] = handler

    def wrap(self, opcode: Opcode, wrapper: Callable[[Handler], Handler]) -> None:
        """Put something before the handler of an opcode, if it has one."""
        inner = self._handlers[opcode]
        if inner is not _unknown:
            self._handlers[opcode] = wrapper(inner)

    def negotiate(
        self, *, passthrough: bool, without: int = 0, most_minor: int = protocol.KERNEL_MINOR_VERSION
    ) -> None:
        """Answer INIT, the first request.

        Args:
            passthrough: Let the kernel read and write files by itself where it can.
            without: INIT flags to do without, as with an older kernel.
            most_minor: The newest protocol, 7.`most_minor`, to speak.

        Raises:
            OSError: EPROTO: the kernel is too old or too different.
        """
        end = os.readv(self.fd, [self.buffer])
        _, opcode, unique, *_ = IN_HEADER.unpack_from(self.buffer)
        major, minor, readahead, offered = protocol.INIT_IN.unpack_from(self.buffer, BODY)
        if opcode != Opcode.INIT or major != protocol.KERNEL_VERSION or minor < protocol.OLDEST_MINOR:
            raise refused(errno.EPROTO)
        if offered & protocol.FUSE_INIT_EXT and end >= BODY + protocol.INIT_IN.size + protocol.INIT_IN_FLAGS2.size:
            (high,) = protocol.INIT_IN_FLAGS2.unpack_from(self.buffer, BODY + protocol.INIT_IN.size)
            offered |= high << 32
        wanted = _WANTED | (protocol.FUSE_PASSTHROUGH if passthrough else 0)
        self.minor = min(minor, most_minor)
        self.flags = offered & wanted & ~without & ~protocol.flags_after(self.minor)
        answer = protocol.INIT_OUT.pack(
            protocol.KERNEL_VERSION,
            self.minor,
            readahead,
            self.flags & 0xFFFFFFFF,
            _MAX_BACKGROUND,
            _CONGESTION,
            _MAX_WRITE,
            _EXACT_TIME_NS,
            _MAX_PAGES,
            0,
            self.flags >> 32,
            _STACK_DEPTH if self.has(protocol.FUSE_PASSTHROUGH) else 0,
            0,
        )
        os.write(self.fd, OUT_HEADER.pack(OUT_HEADER.size + len(answer), 0, unique) + answer)

    @property
    def uid(self) -> int:
        """Of the process that made the request in the buffer."""
        uid: int = OWNER.unpack_from(self.buffer)[0]
        return uid

    @property
    def gid(self) -> int:
        """See `uid`."""
        gid: int = OWNER.unpack_from(self.buffer)[1]
        return gid

    def requester(self, *, capable: bool | None = None) -> Requester:
        """Return who made the request in the buffer; `capable` is whether they have CAP_FSETID, if it says so."""
        _, gid, thread = OWNER.unpack_from(self.buffer)
        return Requester(thread, gid, capable=capable)

    def has(self, flag: int) -> bool:
        """Tell whether an INIT flag was agreed on."""
        return bool(self.flags & flag)

    def name(self, start: int, end: int) -> bytes:
        """Return the NUL-terminated string at the end of a request."""
        return self.buffer[start : end - 1]

    def serve(self, *, most_nodes: int) -> None:
        """Answer requests until the filesystem is unmounted.

        Args:
            most_nodes: When there are more, the kernel is asked to forget files that nobody uses.
        """
        descriptors, nodes = self.union.descriptors, self.union.nodes
        pruner = Pruner(self.fd, self.union, most_nodes) if self.minor >= protocol.PRUNE_MINOR else None
        threshold = sys.maxsize if pruner is None else most_nodes
        answer = self._answer = self._answerer()
        for end in requests(self.fd, self.buffer):
            answer(end)
            if descriptors.is_full:
                descriptors.trim()
            if len(nodes) > threshold and pruner is not None:
                threshold = pruner.check()

    def answer_one(self) -> bool:
        """Answer one request that waits, from within a handler, which keeps its own; False: it is gone."""
        try:
            end = os.readv(self.fd, [self.buffer])
        except OSError:
            return False  # `serve` sees it again if it matters
        self._answer(end)
        return True

    def _answerer(self) -> Callable[[int], None]:
        """Return what answers the request in the buffer.

        All it needs are local names: this function is what a round trip costs beside the kernel's part.
        """
        fd, buffer, handlers, counters, stale = self.fd, self.buffer, self._handlers, self.counters, self.union.stale
        unpack, pack, write, header = REQUEST.unpack_from, OUT_HEADER.pack, os.write, OUT_HEADER.size

        def answer(end: int) -> None:
            opcode, unique, nodeid = unpack(buffer)
            try:
                handler = handlers[opcode]
                counters[opcode] += 1
                found = handler(nodeid, end)
            except Exception as exc:  # noqa: BLE001 - whatever goes wrong in one request must not end the others
                found = self._refusal(exc, opcode, nodeid, end)
            if type(found) is bytes:
                message = pack(header + len(found), 0, unique) + found
            elif found is None:
                return
            else:
                message = pack(header, -found, unique)
            if stale:
                self._invalidate(nodeid if opcode == Opcode.SETATTR else 0)
            try:
                write(fd, message)
            except OSError as exc:
                self._not_sent(exc, opcode, message)

        return answer

    def _refusal(self, exc: Exception, opcode: int, nodeid: int, end: int) -> Answer:
        """Return what a request is answered that ended in an exception."""
        if isinstance(exc, OSError):
            if exc.errno == errno.ENOSPC and self._settler.settle(end):
                return self._again(opcode, nodeid, end)
            error = exc.errno or errno.EIO
            if error in _WORTH_A_LINE:
                self._complain(opcode, nodeid, exc)
            return error
        if isinstance(exc, IndexError) and opcode >= MOST_OPCODES:
            return errno.ENOSYS
        self._complain(opcode, nodeid, exc)
        return errno.EIO

    def _again(self, opcode: int, nodeid: int, end: int) -> Answer:
        try:
            return self._handlers[opcode](nodeid, end)
        except Exception as exc:  # noqa: BLE001 - as above
            return self._refusal(exc, opcode, nodeid, end)

    def _invalidate(self, answered: int) -> None:
        """Let the kernel ask again for attributes that a copy-up changed, but for the node whose are in the answer.

        Before the answer, so that nobody sees old ones after it. Of attributes alone (offset -1) this takes no lock
        that a waiting process may hold; see fuse_reverse_inval_inode().
        """
        for nodeid in self.union.stale:
            if nodeid != answered:
                body = protocol.NOTIFY_INVAL_INODE_OUT.pack(nodeid, -1, 0)
                header = OUT_HEADER.pack(OUT_HEADER.size + len(body), protocol.FUSE_NOTIFY_INVAL_INODE, 0)
                try:
                    os.write(self.fd, header + body)
                except OSError as exc:
                    # ENOENT: the kernel has forgotten the node, and its message is on the way.
                    if exc.errno not in {errno.ENOENT, errno.ENODEV}:
                        raise
        self.union.stale.clear()

    def _not_sent(self, exc: OSError, opcode: int, message: bytes) -> None:
        # ENOENT: the caller was killed and does not wait any more.
        if exc.errno not in {errno.ENOENT, errno.ENODEV}:
            raise exc
        if opcode in _ENTRIES and len(message) > OUT_HEADER.size:
            nodeid = message[OUT_HEADER.size : OUT_HEADER.size + _NODEID_BYTES]
            self.union.forget(int.from_bytes(nodeid, sys.byteorder), 1)

    def _complain(self, opcode: int, nodeid: int, exc: Exception) -> None:
        node = self.union.nodes.get(nodeid)
        try:
            name = Opcode(opcode).name
        except ValueError:
            name = str(opcode)
        self._complaints.add(name, "?" if node is None else path_of(node), exc)


def _not_serving(_end: int) -> None:
    """Stand in before `serve`."""


def _unknown(_nodeid: int, _end: int) -> int:
    """Answer an opcode nobody handles."""
    return errno.ENOSYS
