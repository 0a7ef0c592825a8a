"""Read an upper directory in overlay form: what it changes, and what space it takes; see overlayfs.rst."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.kernel.attributes import getxattr, listxattr
from plugengine.model import Change, GuestPath, Usage
from plugengine.trees.copy import owner_outside
from plugengine.trees.overlay_view import Merged, attribute, is_opaque, open_at, opened
from plugengine.trees.remove import remove_tree
from plugengine.trees.walk import Descent
from plugengine.trees.whiteouts import REDIRECT, STEERING, is_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from plugengine.model import HostPath, UserMap

__all__ = ["changes", "is_opaque", "is_whiteout", "remove_tree", "usage"]

_BLOCK_BYTES = 512  # of st_blocks, stat(2)
# The container may run: an entry is gone, or is no directory any more.
_CHANGED_MEANWHILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def usage(tree: HostPath, space: Callable[[int, str, os.stat_result], int | None] | None = None) -> Usage:
    """Return the space an upper directory, or another tree, takes on disk, without the directory itself.

    Args:
        tree: The directory; a container may be writing to it. Links count once.
        space: Return the bytes of an entry (directory descriptor, name, status), None for one that does not count;
            without it they are those of its blocks.
    """
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    with Descent.at(tree) as descent:
        while True:
            name = descent.next()
            if name is None:
                if not descent.depth:
                    return Usage(size_bytes=size, inodes=inodes)
                descent.up()
                continue
            try:
                found = os.stat(name, dir_fd=descent.fd, follow_symlinks=False)
                taken = space(descent.fd, name, found) if space else found.st_blocks * _BLOCK_BYTES
                if stat.S_ISDIR(found.st_mode):
                    descent.down(name)
            except OSError as exc:
                if exc.errno in _CHANGED_MEANWHILE:
                    continue
                raise
            if taken is not None and (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                size += taken
                inodes += 1


def changes(upper: HostPath, chain: Sequence[HostPath], user_map: UserMap | None = None) -> Iterator[Change]:
    """Yield what an upper directory changes about a chain of layers, directories before what is in them.

    A deleted directory is one change. A directory that was there before is a change if its owner, mode, times or
    attributes differ or something in it does. Names that are no UTF-8 are decoded with surrogate escapes.

    Args:
        upper: The upper directory; a container may be writing to it.
        chain: Layer directories, lowest first, unchanging.
        user_map: Owners in the upper directory are those outside this map, in the layers those inside.
    """
    with opened(chain) as below, Descent.at(upper) as descent:
        yield from _Comparison(descent, below, user_map).run()


class _Level:
    """What the walk knows of one directory of the upper side."""

    def __init__(self, below: Merged, *, new: bool = False, pending: str | None = None) -> None:
        self.below = below
        self.new = new  # it was not there: all in it is added, also what a rename brought along
        self.pending = pending  # its path, if it is a change only once something in it is


class _Comparison:
    """One walk through an upper directory beside its layers."""

    def __init__(self, descent: Descent, below: Merged, user_map: UserMap | None) -> None:
        self._descent = descent
        self._user_map = user_map
        self._levels = [_Level(below)]

    def run(self) -> Iterator[Change]:
        while True:
            name = self._descent.next()
            if name is not None:
                yield from self._entry(name)
            elif self._descent.depth:
                self._descent.up()
                self._levels.pop()
            else:
                return

    def _entry(self, name: str) -> Iterator[Change]:
        path = f"{self._descent.path}/{name}" if self._descent.depth else name
        try:
            found = os.stat(name, dir_fd=self._descent.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                self._descent.down(name)
        except OSError as exc:
            if exc.errno in _CHANGED_MEANWHILE:
                return
            raise
        if stat.S_ISDIR(found.st_mode):
            yield from self._directory(name, path, found)
            return
        level = self._levels[-1]
        existed = not level.new and level.below.find(name) is not None
        if not is_whiteout(found):
            yield from self._say(path, "C" if existed else "A")
        elif existed:
            yield from self._say(path, "D")

    def _directory(self, name: str, path: str, found: os.stat_result) -> Iterator[Change]:
        """Compare the directory that was just entered."""
        above, fd = self._levels[-1], self._descent.fd
        before = None if above.new else above.below.find(name)
        redirect = attribute(fd, REDIRECT)
        level = _Level(Merged(()), new=True)
        if redirect is not None:
            level.below = self._resolve(os.fsdecode(redirect), above.below)
        elif above.new and not is_opaque(fd):
            level.below = above.below.enter(name)
        elif before is not None and stat.S_ISDIR(before[1].st_mode):
            level = _Level(above.below.enter(name))
            if self._is_same(before, above.below.join(name), found):
                level.pending = path
        self._levels.append(level)
        if level.pending is None:
            yield from self._say(path, "A" if before is None else "C")
        if level.new:
            yield from self._brought(path, level.below, set(os.listdir(fd)))
        elif is_opaque(fd):
            yield from self._hidden(path, level.below, set(os.listdir(fd)))

    def _say(self, path: str, kind: str) -> Iterator[Change]:
        """Yield a change, and before it the directories above that are changes because of it."""
        for level in self._levels:
            if level.pending is not None:
                yield Change(path=GuestPath(f"/{level.pending}"), kind="C")
                level.pending = None
        yield Change(path=GuestPath(f"/{path}"), kind=kind)

    def _hidden(self, path: str, below: Merged, own: set[str]) -> Iterator[Change]:
        """Yield what an opaque directory deletes: it was removed and made again."""
        for name in below.names():
            if name not in own:
                yield from self._say(f"{path}/{name}", "D")

    def _resolve(self, redirect: str, beside: Merged) -> Merged:
        """Return the layers' side of a directory that was moved: an absolute path, or a name beside it."""
        if not redirect.startswith("/"):
            return beside.enter(redirect)
        found = self._levels[0].below
        for name in redirect.strip("/").split("/"):
            found = found.enter(name)
        return found

    def _brought(self, path: str, below: Merged, own: set[str]) -> Iterator[Change]:
        """Yield what a rename brought along and is only in the layers; `own` entries follow in the walk."""
        pending = [(path, below, own)]
        while pending:
            directory, side, known = pending.pop()
            for name in side.names():
                if name in known:
                    continue
                yield Change(path=GuestPath(f"/{directory}/{name}"), kind="A")
                found = side.find(name)
                if found is not None and stat.S_ISDIR(found[1].st_mode):
                    pending.append((f"{directory}/{name}", side.enter(name), set()))

    def _is_same(self, before: tuple[int, os.stat_result], path: str, found: os.stat_result) -> bool:
        """Tell whether a directory is as it was in the layer, but for its entries."""
        layer, lower = before
        if (lower.st_mode, lower.st_mtime_ns, *owner_outside(lower, self._user_map)) != (
            found.st_mode,
            found.st_mtime_ns,
            found.st_uid,
            found.st_gid,
        ):
            return False
        fd = open_at(layer, path)
        try:
            return _content_xattrs(fd) == _content_xattrs(self._descent.fd)
        finally:
            os.close(fd)


def _content_xattrs(fd: int) -> dict[str, bytes]:
    return {name: getxattr(fd, name) for name in listxattr(fd) if not name.startswith(STEERING)}
