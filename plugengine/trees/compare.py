"""Compare a container's whole tree with its layers, for storage drivers that cannot say what was changed."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.kernel.attributes import getxattr, listxattr
from plugengine.model import Change, GuestPath
from plugengine.trees.copy import owner_outside
from plugengine.trees.overlay_view import Merged, open_at, opened
from plugengine.trees.shared_blocks import same_content
from plugengine.trees.walk import Descent
from plugengine.trees.whiteouts import STEERING, is_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plugengine.model import HostPath, UserMap

_NS_PER_SECOND = 1_000_000_000
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# The container may run: an entry is gone, or is something else by now.
_CHANGED_MEANWHILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ENODATA, errno.ENXIO)
_NO_ATTRIBUTES = (errno.EOPNOTSUPP, errno.EPERM)


def compare(chain: Sequence[HostPath], tree_fd: int, user_map: UserMap | None = None) -> Iterator[Change]:
    """Yield what a tree changes about a chain of layers, as `trees.upper.changes` does for an upper directory.

    Everything is looked at: type, mode, owner, size, time of change, device number, attributes, link target; where all
    of these agree, the data decides. A file system that keeps times less exactly than the layers' is no difference.

    Args:
        chain: Layer directories, lowest first, unchanging.
        tree_fd: The container's root; lent. The container may be writing to it.
        user_map: Owners in the tree are those outside this map, in the layers those inside.
    """
    with opened(chain) as root, Descent(os.dup(tree_fd)) as tree:
        yield from Comparison(tree, root, user_map).run()


class Level:
    """What the walk knows of one directory of the tree."""

    def __init__(self, below: Merged, *, said: bool = True) -> None:
        self.below = below
        self.entries: dict[str, tuple[int, os.stat_result]] = below.entries()  # what the layers show there
        self.said = said  # it is a change; if not yet, then once something in it is


class Comparison:
    """One walk through a tree beside its layers; subclasses are told what differs as the walk stands on it."""

    def __init__(self, tree: Descent, root: Merged, user_map: UserMap | None) -> None:
        self.tree = tree
        self._user_map = user_map
        self._levels = [Level(root)]

    def run(self) -> Iterator[Change]:
        """Walk, and yield the changes: directories before what is in them."""
        yield from self._vanished()
        while True:
            name = self.tree.next()
            if name is not None:
                yield from self._entry(name)
                continue
            self.leaving(is_change=self._levels.pop().said)
            if not self.tree.depth:
                return
            self.tree.up()

    # --- for subclasses ---

    def entered(self, name: str) -> None:
        """Be in a directory of the tree, change or not, of which nothing was said yet."""

    def leaving(self, *, is_change: bool) -> None:
        """Be done with the current directory; `is_change`: it or something in it differs."""

    def differs(self, name: str, kind: str) -> None:
        """Be told of an entry of the current directory: "D", or "A" or "C" and no directory."""

    # --- the walk ---

    def _entry(self, name: str) -> Iterator[Change]:
        level = self._levels[-1]
        try:
            found = os.stat(name, dir_fd=self.tree.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self.tree.down(name)
                kind = ""
            else:
                kind = self._kind(name, level, found)
        except OSError as exc:
            if exc.errno in _CHANGED_MEANWHILE:
                return
            raise
        if stat.S_ISDIR(found.st_mode):
            yield from self._directory(name, level, found)
        elif kind:
            yield from self._say(level.below.join(name), kind)
            self.differs(name, kind)

    def _kind(self, name: str, level: Level, found: os.stat_result) -> str:
        """Return how an entry that is no directory differs, "" if it does not."""
        if is_whiteout(found):  # a container can make such a device, but what an image says with it is "deleted"
            return "D" if name in level.entries else ""
        if name not in level.entries:
            return "A"
        return "" if self._same_file(name, level, found) else "C"

    def _directory(self, name: str, above: Level, found: os.stat_result) -> Iterator[Change]:
        """Compare the directory that was just entered."""
        before = above.entries.get(name)
        was_directory = before is not None and stat.S_ISDIR(before[1].st_mode)
        below = above.below.enter(name) if was_directory else Merged((), above.below.join(name))
        self._levels.append(Level(below, said=False))
        self.entered(name)
        if before is None or not was_directory or not self._same_directory(before, below.path, found):
            yield from self._say(below.path, "A" if before is None else "C", itself=True)
        yield from self._vanished()

    def _vanished(self) -> Iterator[Change]:
        """Yield what the layers have in the current directory and the tree has not."""
        level = self._levels[-1]
        if not level.entries:
            return
        present = set(os.listdir(self.tree.fd))
        for name in level.entries:
            if name not in present:
                yield from self._say(level.below.join(name), "D")
                self.differs(name, "D")

    def _say(self, path: str, kind: str, *, itself: bool = False) -> Iterator[Change]:
        """Yield a change, and before it the directories above that are changes because of it."""
        for level in self._levels[:-1] if itself else self._levels:
            if not level.said:
                level.said = True
                yield Change(path=GuestPath(f"/{level.below.path}"), kind="C")
        if itself:
            self._levels[-1].said = True
        yield Change(path=GuestPath(f"/{path}"), kind=kind)

    # --- sameness ---

    def _same_status(self, lower: os.stat_result, found: os.stat_result) -> bool:
        return (
            (lower.st_mode, lower.st_rdev) == (found.st_mode, found.st_rdev)
            and owner_outside(lower, self._user_map) == (found.st_uid, found.st_gid)
            and _same_time(lower.st_mtime_ns, found.st_mtime_ns)
        )

    def _same_directory(self, before: tuple[int, os.stat_result], path: str, found: os.stat_result) -> bool:
        if not self._same_status(before[1], found):
            return False
        fd = open_at(before[0], path)
        try:
            return _attributes(fd) == _attributes(self.tree.fd)
        finally:
            os.close(fd)

    def _same_file(self, name: str, level: Level, found: os.stat_result) -> bool:
        layer_fd, lower = level.entries[name]
        if not self._same_status(lower, found):
            return False
        regular = stat.S_ISREG(found.st_mode)
        if regular and lower.st_size != found.st_size:
            return False
        flags = _FILE if regular else _ENTRY
        fd = os.open(level.below.join(name), flags, dir_fd=layer_fd)
        try:
            own_fd = os.open(name, flags, dir_fd=self.tree.fd)
            try:
                return _same_rest(fd, own_fd, found)
            finally:
                os.close(own_fd)
        finally:
            os.close(fd)


def _same_rest(fd: int, own_fd: int, found: os.stat_result) -> bool:
    """Compare what is not in a status: link target, attributes, data."""
    if stat.S_ISLNK(found.st_mode) and os.readlink("", dir_fd=fd) != os.readlink("", dir_fd=own_fd):
        return False
    if _attributes(fd) != _attributes(own_fd):
        return False
    return not stat.S_ISREG(found.st_mode) or same_content(fd, own_fd)


def _same_time(lower_ns: int, found_ns: int) -> bool:
    """Compare times, of which one may come from a filesystem that keeps whole seconds only."""
    if lower_ns == found_ns:
        return True
    whole = lower_ns % _NS_PER_SECOND == 0 or found_ns % _NS_PER_SECOND == 0
    return whole and lower_ns // _NS_PER_SECOND == found_ns // _NS_PER_SECOND


def _attributes(fd: int) -> dict[str, bytes]:
    """Return the extended attributes that are content."""
    try:
        return {name: getxattr(fd, name) for name in listxattr(fd) if not name.startswith(STEERING)}
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTES:
            return {}
        raise
