"""Read-only layers as trees of directory descriptors, opened on demand and closed when there are too many."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import Final, Protocol

from plugengine.kernel.files import AT_FDCWD
from plugengine.kernel.mount import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_RDONLY,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    mount_setattr,
    open_tree,
)

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LayerDir:
    """One directory of one layer; what it names never changes, its descriptor comes and goes."""

    __slots__ = ("device", "fd", "name", "parent")
    gone = False

    def __init__(self, parent: LayerDir | None, name: bytes, device: int, fd: int = -1) -> None:
        self.parent = parent  # None: the root of a layer, whose descriptor stays
        self.name = name
        self.device = device  # index of the layer's filesystem, see `Union.number`
        self.fd = fd


def root_of(directory: LayerDir) -> LayerDir:
    """Return the root of the layer that a directory is in."""
    while directory.parent is not None:
        directory = directory.parent
    return directory


class Holder(Protocol):
    """Something with a descriptor that can be opened again."""

    fd: int

    @property
    def gone(self) -> bool:
        """Whether no name leads to it any more, so that it could not be opened again."""


class Descriptors:
    """Closes the oldest directory descriptors; only between requests, so that none is closed in use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders: deque[Holder] = deque()
        self.is_full = False  # `trim` would do something; asked after every request

    def add(self, holder: Holder) -> None:
        """Take note of a descriptor that may be closed later."""
        self._holders.append(holder)
        self.is_full = len(self._holders) > self._limit

    def trim(self) -> None:
        """Close what is over the limit."""
        holders = self._holders
        while len(holders) > self._limit:
            holder = holders.popleft()
            if not holder.gone:
                close(holder)
        self.is_full = False


def close(holder: Holder) -> None:
    """Close a holder's descriptor; one that is closed already stays so."""
    fd, holder.fd = holder.fd, -1
    if fd >= 0:
        os.close(fd)


class PrivateMounts:
    """Opens directories below private copies of their mounts, one copy for all neighbours.

    Of layers the copies are read-only and noatime: a write to a layer is then refused by the kernel (EROFS) whatever
    the server does, and reading leaves no access times behind; the kernel's overlayfs does the same
    (clone_private_mount). Without CAP_SYS_ADMIN it is the directory itself.
    """

    def __init__(self) -> None:
        self._copies: dict[bytes, int] = {}

    def open(self, path: bytes) -> tuple[int, os.stat_result]:
        """Return a descriptor of the directory at `path`, which the caller closes, and its attributes."""
        wanted = os.stat(path)
        if not stat.S_ISDIR(wanted.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        try:
            return self._open_copy(path, wanted), wanted
        except PermissionError:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), wanted

    def _open_copy(self, path: bytes, wanted: os.stat_result) -> int:
        folder, name = os.path.split(path)
        if folder not in self._copies:
            self._copies[folder] = self._copy(folder or b".")
        try:
            found = os.open(name, DIRECTORY_FLAGS, dir_fd=self._copies[folder])
        except OSError:
            found = -1  # a symlink, or hidden below a mount that the copy does not have
        if found >= 0:
            if os.path.samestat(os.fstat(found), wanted):
                return found
            os.close(found)
        self._copies[path] = self._copy(path)
        # The copy's own descriptor is O_PATH, which can't be listed; see open_tree(2).
        return os.open(b".", DIRECTORY_FLAGS, dir_fd=self._copies[path])

    def _copy(self, path: bytes) -> int:
        """Copy one mount; its descriptor stays open, as closing it takes ten times as long as making it."""
        tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        mount_setattr(tree, attr_set=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, attr_clr=MOUNT_ATTR__ATIME)
        return tree


def layer_fd(directory: LayerDir, descriptors: Descriptors) -> int:
    """Return the descriptor of a layer's directory, opened from its parents where it is closed."""
    if directory.fd >= 0:
        return directory.fd
    closed = [directory]
    while (parent := closed[-1].parent) is not None and parent.fd < 0:
        closed.append(parent)
    for entry in reversed(closed):
        if entry.parent is not None:
            entry.fd = os.open(entry.name, DIRECTORY_FLAGS, dir_fd=entry.parent.fd)
            descriptors.add(entry)
    return directory.fd
