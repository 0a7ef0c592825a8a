"""See a chain of layer directories as one tree, as overlayfs would show it; see overlayfs.rst."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from plugengine.kernel.attributes import getxattr
from plugengine.trees.walk import DIRECTORY
from plugengine.trees.whiteouts import OPAQUE, YES, is_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plugengine.model import HostPath


def is_opaque(fd: int) -> bool:
    """Tell whether an open directory hides what lies below it."""
    return attribute(fd, OPAQUE) == YES


def attribute(fd: int, name: str) -> bytes | None:
    """Return an extended attribute of an open file, None where there is none."""
    try:
        return getxattr(fd, name)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


class Merged:
    """One directory of the merged tree: the layers that take part in it, topmost first, and where it lies in them.

    Args:
        fds: Their roots; lent.
        path: The directory, relative to each root, "" for the roots themselves.
    """

    def __init__(self, fds: Sequence[int], path: str = "") -> None:
        self.fds = fds
        self.path = path

    def join(self, name: str) -> str:
        """Return the path of an entry."""
        return f"{self.path}/{name}" if self.path else name

    def find(self, name: str) -> tuple[int, os.stat_result] | None:
        """Return (root of its layer, stat) of what is visible under a name."""
        path = self.join(name)
        for fd in self.fds:
            found = _stat(fd, path)
            if found is not None:
                return None if is_whiteout(found) else (fd, found)
        return None

    def enter(self, name: str) -> Merged:
        """Return a directory below; without layers when there is none."""
        path = self.join(name)
        taking_part: list[int] = []
        for fd in self.fds:
            found = _stat(fd, path)
            if found is None:
                continue
            if not stat.S_ISDIR(found.st_mode):
                break
            taking_part.append(fd)
            if _is_opaque_at(fd, path):
                break
        return Merged(taking_part, path)

    def entries(self) -> dict[str, tuple[int, os.stat_result]]:
        """Return the visible names, sorted, each with (root of its layer, stat)."""
        topmost: dict[str, tuple[int, os.stat_result]] = {}
        for fd in self.fds:
            directory = open_at(fd, self.path)
            try:
                for name in os.listdir(directory):
                    if name not in topmost:
                        topmost[name] = (fd, os.stat(name, dir_fd=directory, follow_symlinks=False))
            finally:
                os.close(directory)
        return {name: topmost[name] for name in sorted(topmost) if not is_whiteout(topmost[name][1])}

    def names(self) -> list[str]:
        """Return the visible names, sorted."""
        return list(self.entries())

    def open(self) -> int:
        """Open the topmost layer's directory, whose attributes are those that show; the caller closes it."""
        return open_at(self.fds[0], self.path)


@contextmanager
def opened(chain: Sequence[HostPath]) -> Iterator[Merged]:
    """Open the layers of a chain, lowest first, and give the root of what they show together."""
    fds: list[int] = []
    try:
        for layer in dict.fromkeys(reversed(chain)):
            fds.append(os.open(layer, DIRECTORY))
        yield Merged(fds)
    finally:
        for fd in fds:
            os.close(fd)


def open_at(fd: int, path: str) -> int:
    """Open a directory of a layer; what leads to it was seen to be directories, and layers do not change."""
    return os.open(path or ".", DIRECTORY, dir_fd=fd)


def _stat(fd: int, path: str) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_opaque_at(fd: int, path: str) -> bool:
    directory = open_at(fd, path)
    try:
        return is_opaque(directory)
    finally:
        os.close(directory)
