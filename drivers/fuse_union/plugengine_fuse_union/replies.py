"""Encode what a request is answered with: attributes and entries."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from plugengine.kernel.attributes import statx

from plugengine_fuse_union.nodes import DirNode, Node
from plugengine_fuse_union.protocol import ATTR, ATTR_REPLY, ENTRY, ENTRY_REPLY, STATX_OUT
from plugengine_fuse_union.restless import is_restless

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

# Layers never change and the upper directory only through us, so nothing ever has to be asked again.
FOREVER: Final = 1 << 31
NEGATIVE: Final = ENTRY.pack(0, 0, FOREVER, 0, 0, 0) + bytes(ATTR.size)
NOTHING: Final = b""
_NS: Final = 1_000_000_000
_S_IFMT: Final = 0o170000
_S_IFDIR: Final = stat.S_IFDIR
_STATX_BASIC_STATS: Final = 0x7FF
_STATX_BTIME: Final = 0x800


class Replies:
    """Encodes for one union."""

    def __init__(self, union: Union) -> None:
        self._union = union

    def attributes(self, node: Node, status: os.stat_result) -> tuple[float, ...]:
        """Return the fields of a struct fuse_attr."""
        # Fields by name take twice as long as all of them together. Times by position are whole seconds, as integers.
        mode, _, _, nlink, uid, gid, size, atime, mtime, ctime = status
        if self._union.owners is not None:
            uid, gid = self._union.owners.to_host(uid, gid)
        if node.gone or mode & _S_IFMT == _S_IFDIR:
            nlink = links(node, status)
        return (
            node.ino,
            size,
            status.st_blocks,
            atime,
            mtime,
            ctime,
            status.st_atime_ns % _NS,
            status.st_mtime_ns % _NS,
            status.st_ctime_ns % _NS,
            mode,
            nlink,
            uid,
            gid,
            encode_device(status.st_rdev) if status.st_rdev else 0,
            status.st_blksize,
            0,
        )

    def attr(self, node: Node) -> bytes:
        """Return the answer to GETATTR and SETATTR."""
        shown = node if node.successor is None else node.successor
        lifetime = self._lifetime(node)
        status = self._union.status(shown) if shown.kept < 0 else os.fstat(shown.kept)
        return ATTR_REPLY.pack(lifetime, 0, 0, *self.attributes(shown, status))

    def _lifetime(self, node: Node) -> int:
        """Return how long the kernel may keep attributes, in seconds; to be found out before they are looked at."""
        if node.twin or (node.restless and is_restless(self._union, node)):
            return 0
        return FOREVER

    def entry(self, node: Node, status: os.stat_result | None = None) -> bytes:
        """Return the answer to LOOKUP and whatever makes a name; counts a reference."""
        was_restless, lifetime = node.restless, self._lifetime(node)
        if status is None or was_restless:
            status = self._union.status(node)
        return self._entry(node, status, lifetime)

    def made(self, node: Node, status: os.stat_result) -> bytes:
        """Return the same for a file made to be written to: empty, so what changes it next is seen by the kernel."""
        return self._entry(node, status, FOREVER)

    def _entry(self, node: Node, status: os.stat_result, lifetime: int) -> bytes:
        nodeid = self._union.remember(node)
        return ENTRY_REPLY.pack(nodeid, 0, FOREVER, lifetime, 0, 0, *self.attributes(node, status))

    def statx(self, node: Node) -> bytes:
        """Return the answer to STATX: the attributes, and the time of birth where the disk knows it."""
        shown = node if node.successor is None else node.successor
        lifetime = self._lifetime(node)
        status = self._union.status(shown)
        dir_fd, name = (shown.fd, b"") if shown.fd >= 0 else self._union.place(shown)
        birth, _, _ = statx(dir_fd, name)
        uid, gid = status.st_uid, status.st_gid
        if self._union.owners is not None:
            uid, gid = self._union.owners.to_host(uid, gid)
        times = [
            (*divmod(time_ns, _NS), 0)
            for time_ns in (status.st_atime_ns, birth or 0, status.st_ctime_ns, status.st_mtime_ns)
        ]
        return STATX_OUT.pack(
            lifetime,
            0,
            0,
            _STATX_BASIC_STATS | (_STATX_BTIME if birth is not None else 0),
            status.st_blksize,
            0,
            links(shown, status),
            uid,
            gid,
            status.st_mode,
            shown.ino,
            status.st_size,
            status.st_blocks,
            0,
            *(field for time in times for field in time),
            os.major(status.st_rdev),
            os.minor(status.st_rdev),
            0,
            0,
        )


def links(node: Node, status: os.stat_result) -> int:
    """Return st_nlink; 1 for a merged directory, as overlayfs, for its subdirectories are not counted."""
    if node.gone:
        return 0
    if isinstance(node, DirNode) and node.merged:
        return 1
    return status.st_nlink


def encode_device(device: int) -> int:
    """Return a device number as the protocol has it, new_encode_dev() of include/linux/kdev_t.h."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(number: int) -> int:
    """Return a device number of the protocol as os.mknod takes it."""
    return os.makedev((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00))
