"""How files are open: what a node's open handles have in common, and the descriptors behind them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

WRITES: Final = os.O_ACCMODE | os.O_TRUNC  # flags of open(2) of which any may change the file


class Opened:
    """The open state of one node; kept while there are open handles."""

    __slots__ = ("_descriptors", "answer", "backing", "count", "no_capability", "upper", "writers")

    def __init__(self, *, upper: bool) -> None:
        self.count = 0
        self.writers = 0  # of these, those for writing
        self.backing = 0  # the kernel's number of the file it reads and writes by itself; 0: requests come to us
        self.answer = b""  # to one more open for reading, while there is a backing file that shows what is shown
        self.no_capability = False  # known to have no security.capability, which the kernel asks for at the first write
        self.upper = upper  # where the backing file is
        self._descriptors: set[int] | None = None  # of the handles that are served here; few files have some

    @property
    def descriptors(self) -> Collection[int]:
        """The descriptors of the handles that are served here."""
        return self._descriptors or ()

    def serve(self, fd: int) -> None:
        """Take the descriptor of one more handle that is served here."""
        if self._descriptors is None:
            self._descriptors = {fd}
        else:
            self._descriptors.add(fd)

    def part_with(self, fd: int) -> None:
        """Forget a descriptor; it stays open."""
        if self._descriptors is not None:
            self._descriptors.discard(fd)


def follow_copy_up(union: Union, node: Node) -> None:
    """Let descriptors opened in a layer see the copy from now on, as overlayfs does for read(2) since Linux 4.19."""
    if node.opened is None:
        return
    node.opened.answer = b""
    for fd in node.opened.descriptors:
        fresh = union.open_data(node, os.O_RDONLY)
        os.dup2(fresh, fd, inheritable=False)
        os.close(fresh)
