"""The listings that are kept, and the bound on what they hold together; the oldest go first."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plugengine_fuse_union.listing import Listing
    from plugengine_fuse_union.nodes import DirNode

_MOST_LISTINGS: Final = 256
_MOST_ENTRIES: Final = 4_096  # of all; the newest listing may be larger


class KeptListings:
    """Counts the entries of all listings that nodes have, also those that come and go one by one."""

    def __init__(self) -> None:
        self.entries = 0
        self._kept: deque[tuple[DirNode, Listing]] = deque()

    def keep(self, node: DirNode, made: Listing) -> None:
        """Give a directory a listing just made."""
        node.listing = made
        made.kept = self
        self.entries += len(made.items)
        self._kept.append((node, made))
        self.trim()

    def trim(self) -> None:
        """Let listings go until the rest is within the bound."""
        while len(self._kept) > _MOST_LISTINGS or (self.entries > _MOST_ENTRIES and len(self._kept) > 1):
            self._release(*self._kept.popleft())

    def drop(self, node: DirNode) -> None:
        """Let the listing of a directory go, if it has one."""
        if node.listing is not None:
            self._release(node, node.listing)

    def _release(self, node: DirNode, made: Listing) -> None:
        if node.listing is made:
            node.listing = None
        if made.kept is self:
            self.entries -= len(made.items)
            made.kept = None
        made.clear()
