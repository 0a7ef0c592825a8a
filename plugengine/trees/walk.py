"""Walk a tree that may be hostile: by descriptor, never out of it, and with few descriptors however deep it is."""

from __future__ import annotations

import errno
import os

from plugengine.kernel.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV


class Descent:
    """One directory of a tree at a time, in order of names: down by a name, up by "..".

    Only the current directory is open. A container can nest directories without end (a path is limited, a chain
    of mkdir and chdir is not), so neither recursion nor a descriptor for each level would do.

    Args:
        fd: The tree's root; taken over.
    """

    def __init__(self, fd: int) -> None:
        self.fd: int = fd
        self._above: list[tuple[str, int, int, list[str]]] = []  # name below, device, inode, names still to visit
        self._names = _names(fd)

    @classmethod
    def at(cls, path: str) -> Self:
        """Begin at a path whose parents are the engine's own."""
        return cls(os.open(path, DIRECTORY))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)

    @property
    def depth(self) -> int:
        """How many levels below the root the current directory is."""
        return len(self._above)

    @property
    def path(self) -> str:
        """The current directory relative to the root, "" for the root itself."""
        return "/".join(name for name, *_ in self._above)

    def next(self) -> str | None:
        """Return the next name in the current directory; None: there are no more."""
        return self._names.pop() if self._names else None

    def down(self, name: str) -> None:
        """Enter a directory.

        Raises:
            OSError: EXDEV: it is a mount point; ELOOP, ENOTDIR: it is no directory.
        """
        here = os.fstat(self.fd)
        below = openat2(self.fd, name, DIRECTORY, resolve=_RESOLVE)
        try:
            names = _names(below)
        except OSError:
            os.close(below)
            raise
        self._above.append((name, here.st_dev, here.st_ino, self._names))
        self._names = names
        os.close(self.fd)
        self.fd = below

    def up(self) -> str:
        """Go back to the directory above and return the name of the one that was left.

        Raises:
            OSError: ESTALE: somebody moved the directory meanwhile.
        """
        name, device, inode, names = self._above[-1]
        above = os.open("..", DIRECTORY, dir_fd=self.fd)
        found = os.fstat(above)
        if (found.st_dev, found.st_ino) != (device, inode):
            os.close(above)
            raise OSError(errno.ESTALE, "directory was moved during the walk", self.path)
        self._above.pop()
        self._names = names
        os.close(self.fd)
        self.fd = above
        return name


def _names(fd: int) -> list[str]:
    return sorted(os.listdir(fd), reverse=True)
