"""Open files and directories of a union on libfuse."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from plugengine_fuse_union import attributes, create
from plugengine_fuse_union.copyup import copy_up
from plugengine_fuse_union.create import Caller
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.listing import DT_DIR, TYPE_SHIFT, listing
from plugengine_fuse_union.nodes import DirNode, Node
from plugengine_fuse_union.opened import WRITES, Opened
from plugengine_fuse_union.paths import Paths
from plugengine_fuse_union.privileges import Requester

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

_MODE: Final = 0o7777


class PathFiles:
    """The operations on handles; `fi` is libfuse's struct fuse_file_info, whose `fh` is ours."""

    def __init__(self, union: Union, context: Callable[[], tuple[int, int, int]]) -> None:
        """Serve a union.

        Args:
            union: The union.
            context: Returns user, group and process of the current request.
        """
        self.union = union
        self.context = context
        self.paths = Paths(union)
        self._files: dict[int, Node] = {}  # by descriptor, which is the handle
        self._directories: dict[int, DirNode] = {}
        self._next_directory = 0

    def caller(self) -> Caller:
        """Return the caller's ids; the kernel has applied their umask."""
        uid, gid, _ = self.context()
        return Caller(self.union, uid, gid)

    def requester(self, *, capable: bool | None = None) -> Requester:
        """Return whose set-id bits are cleared where they change a file; `capable` where the kernel sees to it."""
        _, gid, thread = self.context()
        return Requester(thread, gid, capable=capable)

    def opened_node(self, fi: Any) -> Node:
        """Return the node of a handle."""
        try:
            return self._files[fi.fh]
        except KeyError:
            raise refused(errno.EBADF) from None

    # --- files

    def open(self, path: str, fi: Any) -> int:
        """Open a file; one of a layer that is opened for writing is copied up first."""
        node = self.paths.node(path.encode("latin-1"))
        flags = fi.flags
        if flags & WRITES and not node.whole:
            copy_up(self.union, node, size=0 if flags & os.O_TRUNC else None)
        if flags & os.O_TRUNC:
            attributes.set_size(self.union, node, 0, self.requester())
        fi.fh = self._opened(node, self.union.open_data(node, os.O_RDWR if flags & os.O_ACCMODE else os.O_RDONLY))
        return 0

    def create(self, path: str, mode: int, fi: Any) -> int:
        """Make a file and open it."""
        parent, name = self.paths.parent(path.encode("latin-1"))
        (node, _), fd = create.create(self.union, parent, name, mode & _MODE, self.caller())
        fi.fh = self._opened(node, fd)
        return 0

    def _opened(self, node: Node, fd: int) -> int:
        if node.opened is None:
            node.opened = Opened(upper=node.whole)
        node.opened.count += 1
        node.opened.serve(fd)
        self.union.remember(node)
        self._files[fd] = node
        return fd

    def release(self, _path: str | None, fi: Any) -> None:
        """Take back one open."""
        node = self.opened_node(fi)
        del self._files[fi.fh]
        os.close(fi.fh)
        if node.opened is not None:
            node.opened.part_with(fi.fh)
            node.opened.count -= 1
            if node.opened.count == 0:
                node.opened = None
                self.paths.reveal(node)
        self.union.forget(node.nodeid, 1)

    def read(self, _path: str | None, size: int, offset: int, fi: Any) -> bytes:
        """Read."""
        return os.pread(fi.fh, size, offset)

    def write(self, _path: str | None, data: bytes, offset: int, fi: Any) -> int:
        """Write; to the very end with O_APPEND, as the kernel knows one size for each name of a linked file."""
        if fi.flags & os.O_APPEND and not fi.writepage:
            offset = os.fstat(fi.fh).st_size
        return os.pwrite(fi.fh, data, offset)

    def fsync(self, _path: str | None, _data_only: int, fi: Any) -> None:
        """Bring a file to the disk; always with its metadata, for a copy has a new place."""
        if self.union.durable:
            os.fsync(fi.fh)

    # --- directories

    def opendir(self, path: str) -> int:
        """Open a directory."""
        node = self.paths.node(path.encode("latin-1"))
        if not isinstance(node, DirNode):
            raise refused(errno.ENOTDIR)
        self._next_directory += 1
        self._directories[self._next_directory] = node
        self.union.remember(node)
        return self._next_directory

    def readdir(self, _path: str | None, handle: int) -> list[tuple[str, dict[str, int], int]]:
        """Return all entries; libfuse keeps them for this reader."""
        node = self._directories[handle]
        entries = [_entry(b".", DT_DIR, node.ino), _entry(b"..", DT_DIR, node.parent.ino)]
        entries += [_entry(*item) for _, item in listing(self.union, node).after(0)]
        return entries

    def releasedir(self, _path: str | None, handle: int) -> None:
        """Close a directory."""
        self.union.forget(self._directories.pop(handle).nodeid, 1)

    def fsyncdir(self, _path: str | None, _data_only: int, handle: int) -> None:
        """Bring a directory to the disk."""
        node = self._directories[handle]
        if node.upper and self.union.durable:
            os.fsync(self.union.upper_fd(node))


def _entry(name: bytes, kind: int, ino: int) -> tuple[str, dict[str, int], int]:
    # Position 0 makes libfuse take the whole listing at once; fusepy does not pass on where to go on.
    return name.decode("latin-1"), {"st_ino": ino, "st_mode": kind << TYPE_SHIFT}, 0
