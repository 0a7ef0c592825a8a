"""What the upper directory takes on disk, kept by what each request changes, and the limit on it (option `size`)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union.errors import refused

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node

BLOCK: Final = 512  # of st_blocks, stat(2)
# Who keeps writing at the limit makes the server look at the disk again at most this often.
_RECOUNT_S: Final = 1.0
_RECOUNT_SHARE: Final = 20  # and for at most one part in so many of the time


class Quota:
    """The bytes used and the bytes allowed; by blocks, as du(1) counts, so holes cost nothing and links count once."""

    def __init__(self, limit: int, used: int, unit: int) -> None:
        """Start counting.

        Args:
            limit: Bytes the upper directory may take.
            used: Bytes it takes now.
            unit: Bytes of the filesystem's block.
        """
        self.limit = limit
        self.used = used
        self.unit = unit
        self.recount: Callable[[], int] = lambda: self.used  # look at the disk again; returns bytes
        self.fresh: dict[Node, int] = {}  # changed by this request: the blocks already counted
        self.lost: dict[int, int] = {}  # blocks of files without a name that are still open, by node
        # Blocks of a node that are in `used`, since its last change. Filesystems that allocate late (ext4) show fewer
        # for a moment while they write back: what a change is measured against must not be looked up again.
        self.counted: dict[int, int] = {}
        self._next_recount = 0.0

    @property
    def free(self) -> int:
        """The bytes left, never less than none."""
        return max(self.limit - self.used, 0)

    def has(self, size: int) -> bool:
        """Tell whether so many bytes are left; before it says no it looks again, though not all the time.

        Filesystems give back by themselves what they set aside beyond the end of a growing file (XFS).
        """
        if size <= self.limit - self.used:
            return True
        now = time.monotonic()
        if now < self._next_recount:
            return False
        # Twice, as a file that is being written back may show too few blocks in one of them; see `counted`.
        self.used = max(self.recount(), self.recount()) + sum(self.lost.values()) * BLOCK
        self.counted.clear()
        done = time.monotonic()
        self._next_recount = done + max((done - now) * _RECOUNT_SHARE, _RECOUNT_S)
        return size <= self.limit - self.used

    def require(self, size: int) -> None:
        """Raise ENOSPC unless so many bytes are left.

        Raises:
            OSError: ENOSPC.
        """
        if not self.has(size):
            raise refused(errno.ENOSPC)

    def require_file(self, status: os.stat_result, size: int) -> None:
        """Raise ENOSPC unless a copy of the first `size` bytes of a file fits; its holes stay holes.

        Raises:
            OSError: ENOSPC.
        """
        self.require(min(self.whole(size), max(status.st_blocks * BLOCK, self.unit if size else 0)))

    def add_copy(self, node: Node, status: os.stat_result) -> None:
        """Count what has just been copied up."""
        self.fresh[node] = status.st_blocks
        if node.gone:
            self.lost[node.nodeid] = status.st_blocks
        self.used += status.st_blocks * BLOCK

    def count(self, nodeid: int, before: int, after: int) -> None:
        """Count a node that takes `after` blocks now, and took `before` if it is not known what was counted of it."""
        grown = after - self.counted.get(nodeid, before)
        if nodeid:  # the kernel knows it, and will tell when it forgets it
            self.counted[nodeid] = after
        self.used += grown * BLOCK
        if nodeid in self.lost:
            self.lost[nodeid] += grown

    def written(self, nodeid: int, before: os.stat_result, start: int, after: os.stat_result) -> None:
        """Count a file after a write at `start`, which frees nothing: fewer blocks than it had are not believed."""
        had = self.counted.get(nodeid, before.st_blocks)
        least = had
        if start <= before.st_size and had * BLOCK >= self.whole(before.st_size):
            least = max(had, self.whole(after.st_size) // BLOCK)  # without holes, and no hole is made
        self.count(nodeid, before.st_blocks, max(after.st_blocks, least))

    def whole(self, size: int) -> int:
        """Round up to blocks of the filesystem."""
        return -(-size // self.unit) * self.unit

    def growth(self, status: os.stat_result, start: int, end: int) -> int:
        """Return the most a file can grow when these bytes of it are written.

        That is the blocks they touch, but no more than all holes of the file then. Space allotted beyond its end
        would hide holes; see `QuotaRequests.fallocate`.
        """
        holes = self.whole(max(status.st_size, end)) - status.st_blocks * BLOCK
        touched = self.whole(end) - start // self.unit * self.unit
        return max(min(touched, holes), 0)

    def fitting(self, status: os.stat_result, start: int, size: int) -> int:
        """Return how many bytes may be written at `start`, at most `size`.

        Raises:
            OSError: ENOSPC: not one.
        """
        if self.has(self.growth(status, start, start + size)):
            return size
        end = (start + self.free) // self.unit * self.unit
        # What is left of a block that is there already costs nothing.
        for last in (end, self.whole(start)):
            if start < last < start + size and self.growth(status, start, last) <= self.free:
                return last - start
        raise refused(errno.ENOSPC)


def open_quota(limit: int, upper: bytes) -> Quota:
    """Count what an upper directory takes now, as `pe_storage_usage` does."""
    from plugengine.model import HostPath
    from plugengine.trees.upper import usage

    path = HostPath(os.fsdecode(upper))
    quota = Quota(limit, usage(path).size_bytes, os.statvfs(upper).f_frsize)
    quota.recount = lambda: usage(path).size_bytes
    return quota
