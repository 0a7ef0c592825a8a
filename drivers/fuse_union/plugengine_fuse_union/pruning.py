"""Keep the table of nodes small: ask the kernel to forget files that nobody uses (FUSE_NOTIFY_PRUNE, Linux 6.18)."""

from __future__ import annotations

import _thread
import os
import sys
from collections.abc import Iterator
from struct import pack
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union.nodes import DirNode
from plugengine_fuse_union.protocol import FUSE_NOTIFY_PRUNE, NOTIFY_PRUNE_OUT, OUT_HEADER

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

_BATCH: Final = 1024
# When a whole sweep could not free enough, the next one waits until the table has grown by this much.
_PATIENCE: Final = 1.25


class Pruner:
    """Sends prune notifications, oldest nodes first, one batch at a time."""

    def __init__(self, fd: int, union: Union, most_nodes: int) -> None:
        self._fd = fd
        self._most = most_nodes
        self._nodes = union.nodes
        self._busy = False
        self._sweep: Iterator[int] = iter(())
        self.threshold = most_nodes

    def check(self) -> int:
        """Start a batch, as there are more nodes than the threshold; return how many there may be from now on."""
        if self._busy:
            return self.threshold
        batch = self._next_batch()
        if not batch:
            self._sweep = iter([nodeid for nodeid, node in self._nodes.items() if _is_idle(node)])
            batch = self._next_batch()
            self.threshold = self._most if batch else max(self._most, int(len(self._nodes) * _PATIENCE))
        if batch:
            self._busy = True
            # The write may wait for pages that only the serving thread can bring; see libfuse, README.notifications.
            _thread.start_new_thread(self._send, (batch,))
        return self.threshold

    def _next_batch(self) -> list[int]:
        return [nodeid for nodeid, _ in zip(self._sweep, range(_BATCH), strict=False)]

    def _send(self, batch: list[int]) -> None:
        message = NOTIFY_PRUNE_OUT.pack(len(batch), 0, 0) + pack(f"={len(batch)}Q", *batch)
        try:
            os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size + len(message), FUSE_NOTIFY_PRUNE, 0) + message)
        except OSError as exc:
            self.threshold = sys.maxsize  # the mount is gone, or this kernel cannot
            sys.stderr.write(f"fuse_union: prune: {exc.strerror}\n")
        finally:
            self._busy = False


def _is_idle(node: Node) -> bool:
    """Tell whether the kernel could let go of it: of a directory only after all that is in it."""
    if isinstance(node, DirNode):
        return not node.children
    return node.opened is None or node.opened.count == 0
