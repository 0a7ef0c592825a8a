"""Work in progress: directories that die with the process that made them, and the way from there into the store."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from plugengine.kernel.files import AT_FDCWD, RENAME_NOREPLACE, renameat2
from plugengine.model import HostPath
from plugengine.trees import remove_at

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PREFIX = "image-"
_TRIES = 16


class Scratch:
    """A directory below `tmp`, locked as long as this object (or a fork of its process) lives.

    The lock, not a pid, tells `collect` that the owner is alive: it also holds between pid namespaces.
    """

    def __init__(self, tmp: HostPath) -> None:
        self._tmp = tmp
        self.path: HostPath = HostPath("")
        self._fd = -1

    def __enter__(self) -> Self:
        os.makedirs(self._tmp, 0o700, exist_ok=True)
        for _ in range(_TRIES):
            path = f"{self._tmp}/{PREFIX}{os.urandom(8).hex()}"
            os.mkdir(path, 0o700)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # `collect` came between mkdir and open
            if _lock(fd) and os.path.exists(path):  # or before the lock
                self.path, self._fd = HostPath(path), fd
                return self
            os.close(fd)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), self._tmp)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            remove_at.remove_path(self.path)
        finally:
            os.close(self._fd)

    def directory(self, name: str, mode: int = 0o755) -> HostPath:
        """Make an empty directory whose mode is not lessened by the umask."""
        path = f"{self.path}/{name}"
        os.mkdir(path)
        os.chmod(path, mode)
        return HostPath(path)


def collect(tmp: HostPath, *, dry_run: bool = False) -> list[str]:
    """Remove the directories whose owner is dead; return their paths."""
    try:
        names = [name for name in os.listdir(tmp) if name.startswith(PREFIX)]
    except FileNotFoundError:
        return []
    removed = []
    for name in sorted(names):
        path = f"{tmp}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if _lock(fd):
                removed.append(path)
                if not dry_run:
                    remove_at.remove_path(path)
        finally:
            os.close(fd)
    return removed


def place(source: str, target: str) -> bool:
    """Rename into the store and make the name durable; False when it was there already."""
    try:
        renameat2(AT_FDCWD, source, AT_FDCWD, target, RENAME_NOREPLACE)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # the filesystem does not know the flag, e.g. NFS
            raise
        os.rename(source, target)
    sync_directory(os.path.dirname(target))
    return True


def sync_directory(path: str) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def place_over(tmp: HostPath, target: str, content: bytes) -> None:
    """Replace a small file in one step; readers see the old or the new content."""
    with Scratch(tmp) as work:
        source = f"{work.path}/file"
        with open(source, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(source, target)
    sync_directory(os.path.dirname(target))
