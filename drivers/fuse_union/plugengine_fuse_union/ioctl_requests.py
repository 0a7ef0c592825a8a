"""Requests of lsattr(1) and chattr(1); every other ioctl is for devices."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from plugengine.kernel.attributes import FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
from plugengine.kernel.libc import ioctl

from plugengine_fuse_union import protocol
from plugengine_fuse_union.copyup import copy_up
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.nodes import path_of
from plugengine_fuse_union.protocol import BODY, IOCTL_OUT, Opcode

if TYPE_CHECKING:
    from plugengine_fuse_union.connection import Connection, Handler

# include/uapi/linux/fs.h; the kernel asks for the extended form whenever it is about to set either.
_FS_IOC_FSGETXATTR: Final = 0x801C581F
_FS_IOC_FSSETXATTR: Final = 0x401C5820
_READS: Final = frozenset({FS_IOC_GETFLAGS, _FS_IOC_FSGETXATTR})
_WRITES: Final = frozenset({FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR})
_LARGEST: Final = 28  # struct fsxattr


class IoctlRequests:
    """Handlers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._union = connection.union

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers which opcode."""
        return {Opcode.IOCTL: self.ioctl}

    def ioctl(self, nodeid: int, _end: int) -> bytes:
        """IOCTL; who may set which flag has been checked by the kernel (vfs_fileattr_set)."""
        _, _, command, _, in_size, out_size = protocol.IOCTL_IN.unpack_from(self._connection.buffer, BODY)
        if command not in _READS | _WRITES:
            raise refused(errno.ENOTTY)
        node = self._union.get(nodeid)
        if node.successor is not None:
            node = node.successor
        if command in _WRITES:
            copy_up(self._union, node)
        start = BODY + protocol.IOCTL_IN.size
        argument = bytearray(_LARGEST)
        argument[:in_size] = self._connection.buffer[start : start + min(in_size, _LARGEST)]
        fd = self._union.open_data(node, os.O_RDONLY)
        try:
            ioctl(fd, command, argument, path_of(node))
        finally:
            os.close(fd)
        if command in _WRITES:
            self._union.stale.append(node.nodeid)  # the time of its change has moved
        return IOCTL_OUT.pack(0, 0, 0, 0) + bytes(argument[:out_size])
