"""Write what a container's whole tree changes as an upper directory, for drivers that have none; see overlayfs.rst."""

from __future__ import annotations

import errno
import os

from plugengine.trees.compare import Comparison
from plugengine.trees.copy import EntryCopy
from plugengine.trees.overlay_view import Merged, opened
from plugengine.trees.walk import DIRECTORY, Descent
from plugengine.trees.whiteouts import WHITEOUT_DEVICE, WHITEOUT_MODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugengine.model import HostPath, UserMap


def write_upper(chain: Sequence[HostPath], tree_fd: int, target: HostPath, user_map: UserMap | None = None) -> None:
    """Copy what differs from a chain of layers into an empty directory, with 0:0 devices for what is deleted.

    Of a file with several names only those that differ are copied; they stay links of one another.

    Args:
        chain: Layer directories, lowest first, unchanging.
        tree_fd: The container's root; lent. The container may be writing to it.
        target: An empty directory, which gets the attributes of the tree's root.
        user_map: Owners in the tree are those outside this map, and are copied so; in the layers those inside.

    Raises:
        OSError: As the kernel says; what was copied so far stays.
    """
    upper_fd = os.open(target, DIRECTORY)
    try:
        with opened(chain) as root, Descent(os.dup(tree_fd)) as tree, Descent(os.dup(upper_fd)) as upper:
            for _change in _Derivation(tree, root, upper, EntryCopy(upper_fd), user_map).run():
                pass
    finally:
        os.close(upper_fd)


class _Derivation(Comparison):
    """A comparison that keeps a directory in step with the tree and puts there what differs."""

    def __init__(self, tree: Descent, root: Merged, upper: Descent, copy: EntryCopy, user_map: UserMap | None) -> None:
        super().__init__(tree, root, user_map)
        self._upper = upper
        self._copy = copy

    def entered(self, name: str) -> None:
        """Make the directory, in case something in it differs."""
        os.mkdir(name, 0o700, dir_fd=self._upper.fd)
        self._upper.down(name)

    def leaving(self, *, is_change: bool) -> None:
        """Finish the directory, or take it away again."""
        if is_change:
            self._copy.attributes(self.tree.fd, self._upper.fd, os.fstat(self.tree.fd))
        if self._upper.depth:
            name = self._upper.up()
            if not is_change:
                os.rmdir(name, dir_fd=self._upper.fd)

    def differs(self, name: str, kind: str) -> None:
        """Copy the entry, or put a whiteout in its place."""
        if kind == "D":
            os.mknod(name, WHITEOUT_MODE, WHITEOUT_DEVICE, dir_fd=self._upper.fd)
            return
        try:
            self._copy.entry(self.tree.fd, name, self._upper, name)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):  # gone meanwhile, or something else by now
                raise
