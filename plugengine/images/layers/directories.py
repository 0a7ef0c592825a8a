"""The directories of a layer while it is unpacked: opened inside the root, made where the tar forgot them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from plugengine.images.layers.overlay_form import is_content_xattr
from plugengine.kernel.attributes import getxattr, listxattr, setxattr, utimensat, xattr_path
from plugengine.kernel.files import RESOLVE_NO_SYMLINKS, mkdir_in_root, open_in_root
from plugengine.trees.whiteouts import OPAQUE, YES, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugengine.model import HostPath

_OPEN = os.O_PATH | os.O_DIRECTORY


class Directories:
    """Opens parents by path, and remembers the last one: tars list the files of a directory in a row."""

    def __init__(self, root_fd: int, parents: Sequence[HostPath]) -> None:
        self.root_fd = root_fd
        self._parents = parents
        self._cached_path: bytes | None = None
        self._cached_fd = -1
        self._implied: dict[bytes, int] = {b"": 0}  # not (yet) an entry of the tar: path to mtime

    def close(self) -> None:
        """Close what is held."""
        if self._cached_fd >= 0:
            os.close(self._cached_fd)
        self._cached_fd = -1

    def forget(self) -> None:
        """Something was removed, and another path may lead to what is remembered; it stays open while in use."""
        self._cached_path = None

    def said(self, path: bytes) -> None:
        """The tar itself says what this directory is like."""
        self._implied.pop(path, None)

    def open(self, path: bytes, *, itself: bool = False) -> int | None:
        """Open a directory inside the root; None when there is none. The caller closes it.

        Args:
            path: Relative to the root; symlinks lead to what is inside.
            itself: Not what a symlink of this name leads to.
        """
        try:
            return open_in_root(self.root_fd, path, _OPEN | (os.O_NOFOLLOW if itself else 0))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                return None
            raise

    def parent(self, path: bytes) -> int:
        """Return a descriptor of a directory, made when missing; valid until the next call."""
        if self._cached_path == path:
            return self._cached_fd
        try:
            fd = open_in_root(self.root_fd, path, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            fd = self._make_all(path)
        self.close()
        self._cached_path, self._cached_fd = path, fd
        return fd

    def _make_all(self, path: bytes) -> int:
        """Make a directory and its parents; a whiteout in the way becomes an opaque directory."""
        parent, _, name = path.rpartition(b"/")
        parent_fd = self._open_or_make(parent)
        try:
            found = _lstat(parent_fd, name)
            if found is not None and not is_whiteout(found):
                # A symlink to nowhere: docker makes what it points to; a file: ENOTDIR.
                return mkdir_in_root(self.root_fd, path)
            if found is not None:
                os.unlink(name, dir_fd=parent_fd)
            os.mkdir(name, dir_fd=parent_fd)
            if found is not None:
                setxattr(parent_fd, OPAQUE, YES, name)
        finally:
            os.close(parent_fd)
        fd = open_in_root(self.root_fd, path, _OPEN)
        self._imply(path, fd)
        return fd

    def _open_or_make(self, path: bytes) -> int:
        try:
            return open_in_root(self.root_fd, path, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            return self._make_all(path)

    # --- directories the tar does not mention ---

    def finish(self) -> None:
        """Give the directories the tar never mentioned their times; the root's attributes too."""
        if b"" in self._implied:
            self._imply(b"", self.root_fd)
        for path in sorted(self._implied, reverse=True):
            fd = self.open(path, itself=True)
            if fd is not None:
                try:
                    self.set_times(fd, self._implied[path])
                finally:
                    os.close(fd)

    def _imply(self, path: bytes, fd: int) -> None:
        """Copy owner, mode and attributes from the highest layer below that has the directory."""
        self._implied[path] = 0
        at = xattr_path(fd)
        os.chown(at, 0, 0)  # a set-group-id parent would pass its group on
        os.chmod(at, 0o755)  # noqa: S103 - what docker gives such a directory
        for layer in reversed(self._parents):
            below = _open_below(layer, path)
            if below is None:
                continue
            try:
                self._implied[path] = _copy_attributes(below, fd)
            finally:
                os.close(below)
            return

    def set_times(self, fd: int, mtime_ns: int) -> None:
        """Set both times of a directory by an O_PATH descriptor."""
        utimensat(fd, b"", mtime_ns, mtime_ns, 0)


def _open_below(layer: HostPath, path: bytes) -> int | None:
    layer_fd = os.open(layer, _OPEN | os.O_CLOEXEC)
    try:
        return open_in_root(layer_fd, path, _OPEN, resolve=RESOLVE_NO_SYMLINKS)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    finally:
        os.close(layer_fd)


def _copy_attributes(source_fd: int, target_fd: int) -> int:
    found = os.fstat(source_fd)
    at = xattr_path(target_fd)
    os.chown(at, found.st_uid, found.st_gid)
    os.chmod(at, stat.S_IMODE(found.st_mode))
    for name in listxattr(source_fd):
        if is_content_xattr(os.fsencode(name)):
            setxattr(target_fd, name, getxattr(source_fd, name))
    return found.st_mtime_ns


def _lstat(parent_fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
