"""Write a chain of layers out as one plain tree, as a container without changes would show it."""

from __future__ import annotations

import os

from plugengine.trees.copy import EntryCopy, outside
from plugengine.trees.overlay_view import Merged, opened
from plugengine.trees.walk import DIRECTORY, Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plugengine.model import HostPath, UserMap

_ROOT_MODE = 0o755  # of a container without layers


def write_chain(chain: Sequence[HostPath], target: str, *, user_map: UserMap | None = None) -> None:
    """Copy what a chain of layers shows into an empty directory; data is shared where the filesystem can.

    Only what is visible is copied: nothing of what a layer above deletes or replaces. Hard links within a layer stay
    hard links, holes stay holes, what steers overlayfs is left out.

    Args:
        chain: Layer directories, lowest first.
        target: An empty directory, which gets the owner, mode, times and attributes of the topmost layer's root.
        user_map: Owners inside this map become those outside.

    Raises:
        OSError: As the kernel says; what was copied so far stays.
    """
    target_fd = os.open(target, DIRECTORY)
    try:
        with opened(chain) as root:
            if root.fds:
                _ChainCopy(target_fd, user_map=user_map).run(root)
            else:
                os.fchown(target_fd, *outside(0, 0, user_map))
                os.fchmod(target_fd, _ROOT_MODE)
    finally:
        os.close(target_fd)


class _ChainCopy(EntryCopy):
    """One copy of a merged tree."""

    def run(self, root: Merged) -> None:
        with Descent(os.open(".", DIRECTORY, dir_fd=self.target_fd)) as target:
            levels = [(root, iter(root.entries().items()))]
            while levels:
                side, entries = levels[-1]
                if self._fill(side, entries, target):
                    name = target.path.rpartition("/")[2]
                    below = side.enter(name)
                    levels.append((below, iter(below.entries().items())))
                    continue
                self._finish(side, target)
                levels.pop()
                if levels:
                    target.up()

    def _fill(self, side: Merged, entries: Iterator[tuple[str, tuple[int, os.stat_result]]], target: Descent) -> bool:
        """Copy entries until a directory is met, which is entered; False: there is none left."""
        for name, (layer_fd, _found) in entries:
            if self.entry(layer_fd, side.join(name), target, name):
                target.down(name)
                return True
        return False

    def _finish(self, side: Merged, target: Descent) -> None:
        fd = side.open()
        try:
            self.attributes(fd, target.fd, os.fstat(fd))
        finally:
            os.close(fd)
