"""Find the node of a path that libfuse gives, and keep alive what the next paths will need."""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.lookup import child, look_up
from plugengine_fuse_union.nodes import DirNode, Node

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

_MOST_DIRECTORIES: Final = 256
# What libfuse renames an open file to that loses its name; hide_node() of its lib/fuse.c.
_HIDING_NAME: Final = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")


def is_hiding_name(name: bytes) -> bool:
    """Tell whether libfuse would give an open file this name instead of removing it."""
    return _HIDING_NAME.fullmatch(name) is not None


class Paths:
    """Paths of one mount; every reference taken by one is given back, so that nodes stay few."""

    def __init__(self, union: Union) -> None:
        self._union = union
        self._kept: OrderedDict[int, DirNode] = OrderedDict()  # directories used last, each with a reference
        self._touched: list[Node] = []
        self._hidden: dict[bytes, Node] = {}  # open files without a name, by the one libfuse knows them by

    def find(self, path: bytes) -> tuple[Node, os.stat_result]:
        """Return the node of a path and its attributes on disk.

        Raises:
            OSError: ENOENT, ENOTDIR.
        """
        if path == b"/":
            return self._union.root, self._union.status(self._union.root)
        parent, name = self.parent(path)
        hidden = self._hidden.get(name)
        if hidden is not None:
            return hidden, self._union.status(hidden)
        found = look_up(self._union, parent, name)
        if found is None:
            raise refused(errno.ENOENT)
        self._touched.append(found[0])
        return found

    def node(self, path: bytes) -> Node:
        """Return the node of a path."""
        return self.find(path)[0]

    def parent(self, path: bytes) -> tuple[DirNode, bytes]:
        """Return the directory a path leads to, and the last name."""
        *above, name = path.split(b"/")[1:]
        reached: DirNode = self._union.root
        try:
            for part in above:
                node = child(self._union, reached, part)
                if node is None:
                    raise refused(errno.ENOENT)
                if not isinstance(node, DirNode):
                    self._touched.append(node)
                    raise refused(errno.ENOTDIR)
                reached = node
        finally:
            self._keep(reached)
        return reached, name

    def _keep(self, directory: DirNode) -> None:
        if directory is self._union.root:
            return
        if directory.nodeid in self._kept:
            self._kept.move_to_end(directory.nodeid)
            return
        self._kept[self._union.remember(directory)] = directory

    def touch(self, node: Node) -> None:
        """Take note of a node that is let go after the request, unless somebody took a reference."""
        self._touched.append(node)

    def settle(self) -> None:
        """Let go of what a request touched, and of the directories that were not used for long."""
        for node in self._touched:
            if node.lookups <= 0:
                self._union.drop(node)
        self._touched.clear()
        while len(self._kept) > _MOST_DIRECTORIES:
            nodeid, _ = self._kept.popitem(last=False)
            self._union.forget(nodeid, 1)

    def let_removed_go(self) -> None:
        """Let go of directories that no path leads to any more; each holds a descriptor."""
        for nodeid in [nodeid for nodeid, directory in self._kept.items() if directory.gone]:
            del self._kept[nodeid]
            self._union.forget(nodeid, 1)

    def hide(self, name: bytes, node: Node) -> None:
        """Let a name nobody sees lead to an open file from now on."""
        self._union.remember(node)
        self._hidden[name] = node

    def is_hidden(self, node: Node) -> bool:
        """Tell whether libfuse knows a node by a name that nobody sees."""
        return node in self._hidden.values()

    def reveal(self, node: Node) -> None:
        """Forget the hidden names of a file that was closed."""
        for name in [name for name, hidden in self._hidden.items() if hidden is node]:
            del self._hidden[name]
            self._union.forget(node.nodeid, 1)
