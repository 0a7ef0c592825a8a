"""Remove trees that containers have filled: no link is followed, no mount crossed, no flag in the way."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.errors import StateError
from plugengine.kernel import btrfs
from plugengine.kernel.attributes import FS_APPEND_FL, FS_IMMUTABLE_FL, get_inode_flags, set_inode_flags
from plugengine.trees.walk import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PROTECTED = FS_IMMUTABLE_FL | FS_APPEND_FL
_PEEK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove a file, or a directory with all below it; what is gone counts as removed.

    The parents of `path` are the engine's own; below it everything may be hostile. What cannot be removed (a mount
    point, say) does not keep the rest from being removed.

    Raises:
        StateError: Something is left; the message has the first obstacle.
    """
    try:
        descent = Descent.at(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise StateError(f"remove {path}: {os.strerror(exc.errno or 0).lower()}") from exc
        os.unlink(path)
        return
    with descent:
        work = _Removal(descent)
        try:
            work.run()
            _unprotect(descent.fd)
        except OSError as exc:
            raise StateError(f"remove {path}: {exc.filename}: {exc.strerror}") from exc
    obstacles = work.obstacles
    if not obstacles:
        try:
            os.rmdir(path)
        except OSError as exc:
            obstacles.append(os.strerror(exc.errno or 0).lower())
    if obstacles:
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        raise StateError(f"remove {path}: {obstacles[0]}{more}")


class _Removal:
    """Removes everything below a descent's root and keeps what was in the way."""

    def __init__(self, descent: Descent) -> None:
        self._descent = descent
        self.obstacles: list[str] = []

    def run(self) -> None:
        while True:
            name = self._descent.next()
            if name is not None:
                self._unlink_or_enter(name)
            elif self._descent.depth:
                self._rmdir(self._descent.up())
            else:
                return

    def _unlink_or_enter(self, name: str) -> None:
        try:
            self._without_protection(os.unlink, name)
        except IsADirectoryError:
            self._attempt(lambda: self._enter(name), name)
        except OSError as exc:
            self._note(name, exc)

    def _enter(self, name: str) -> None:
        self._descent.down(name)
        if btrfs.is_subvolume(self._descent.fd):  # a container can make some of its own, and protect them
            btrfs.set_read_only(self._descent.fd, read_only=False)

    def _rmdir(self, name: str) -> None:
        self._attempt(lambda: self._without_protection(os.rmdir, name), name)

    def _without_protection(self, call: Callable[..., None], name: str) -> None:
        """Remove one entry; where a flag forbids it, clear the entry's and its directory's and try once more."""
        try:
            call(name, dir_fd=self._descent.fd)
        except FileNotFoundError:
            return
        except PermissionError:
            _unprotect(self._descent.fd)
            _unprotect_entry(self._descent.fd, name)
            call(name, dir_fd=self._descent.fd)

    def _attempt(self, call: Callable[[], None], name: str) -> None:
        try:
            call()
        except FileNotFoundError:
            return
        except OSError as exc:
            self._note(name, exc)

    def _note(self, name: str, exc: OSError) -> None:
        # A directory that is not empty follows from an obstacle inside, which is in the list already.
        if exc.errno == errno.ENOTEMPTY and self.obstacles:
            return
        reason = "is a mount point" if exc.errno == errno.EXDEV else os.strerror(exc.errno or 0).lower()
        where = f"{self._descent.path}/{name}" if self._descent.depth else name
        self.obstacles.append(f"{where}: {reason}")


def _unprotect_entry(directory_fd: int, name: str) -> None:
    found = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        fd = os.open(name, _PEEK, dir_fd=directory_fd)
        try:
            _unprotect(fd)
        finally:
            os.close(fd)


def _unprotect(fd: int) -> None:
    """Clear the flags that forbid removal, where the filesystem has such flags."""
    try:
        flags = get_inode_flags(fd)
        if flags & _PROTECTED:
            set_inode_flags(fd, flags & ~_PROTECTED)
    except OSError as exc:
        if exc.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINVAL):
            raise
