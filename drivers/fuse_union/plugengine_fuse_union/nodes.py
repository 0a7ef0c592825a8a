"""The objects the kernel knows: one node for each file or directory it has looked up."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from plugengine_fuse_union.layers import LayerDir
    from plugengine_fuse_union.listing import Listing
    from plugengine_fuse_union.opened import Opened
    from plugengine_fuse_union.redirects import Place

# A listing takes about as long as looking for so many absent names in vain.
MISSES_BORNE: Final = 4
# One object for each kind: an int of its own for every node would take 32 bytes.
_KINDS: Final = {
    kind: kind
    for kind in (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    )
}


class Node:
    """A file, symlink or special file; directories are `DirNode`.

    A node is reached through its parent's descriptor and its name. `fd` is a descriptor of the object itself, held
    only while the name does not lead there: after its removal, or for one of several names.
    """

    __slots__ = (
        "data",
        "fd",
        "gone",
        "ino",
        "kept",
        "kind",
        "link",
        "lookups",
        "lower",
        "name",
        "names",
        "nodeid",
        "opened",
        "parent",
        "restless",
        "successor",
        "twin",
        "upper",
    )

    def __init__(self, parent: DirNode | None, name: bytes, kind: int, ino: int, *, upper: bool) -> None:
        self.nodeid = 0  # given with the first reference, see Union.remember
        self.lookups = 0  # references the kernel holds
        self.parent: DirNode = parent if parent is not None else _as_directory(self)
        self.name = name
        self.kind = _KINDS[kind]  # file type bits of st_mode
        self.ino = ino  # the st_ino shown; survives copy-up
        self.upper = upper  # the object is in the upper directory
        self.lower: LayerDir | None = None  # the layer's directory that holds it, while it is not in upper
        self.data: Place | None = None  # where the data lies, if not with the metadata ("metacopy" of overlayfs)
        self.names: list[tuple[DirNode, bytes]] | None = None  # further names of a hard link that were looked up
        self.link = 0  # key in Union.links of an upper file that has several names
        self.fd = -1
        self.kept = -1  # a descriptor of a file in upper that is there by chance; see Union.keep
        self.gone = False  # no name leads here any more
        self.opened: Opened | None = None  # how it is open now, kept by the transport
        self.successor: Node | None = None  # stands for the same file after copy-up under open readers
        self.twin = False  # an older node of the same file is alive: nothing may be cached for long
        self.restless = False  # the kernel may change attributes without asking for them: neither; see `restless`

    @property
    def whole(self) -> bool:
        """Whether all of it is in the upper directory."""
        return self.upper and self.data is None


class DirNode(Node):
    """A directory: at most one upper and any number of lower directories, merged."""

    __slots__ = ("children", "impure", "listing", "lowers", "patience")

    def __init__(self, parent: DirNode | None, name: bytes, kind: int, ino: int, *, upper: bool) -> None:
        super().__init__(parent, name, kind, ino, upper=upper)
        self.lowers: tuple[LayerDir, ...] = ()  # topmost first
        self.children: dict[bytes, Node] = {}  # live nodes only
        self.impure = False  # some entry of the upper directory shows another st_ino than its own
        self.listing: Listing | None = None
        self.patience = MISSES_BORNE  # absent names still to be looked for on the disk before a listing is made

    @property
    def merged(self) -> bool:
        """Tell whether it merges more than one directory."""
        return len(self.lowers) + self.upper > 1


def _as_directory(node: Node) -> DirNode:
    if not isinstance(node, DirNode):
        raise TypeError("only a directory has no parent")
    return node


def close_kept(node: Node) -> None:
    """Close the descriptor that is there by chance."""
    fd, node.kept = node.kept, -1
    if fd >= 0:
        os.close(fd)


def unpin(node: Node) -> None:
    """Close the descriptor of the object itself."""
    fd, node.fd = node.fd, -1
    if fd >= 0:
        os.close(fd)


def path_of(node: Node) -> str:
    """Return the path below the mount point, for messages only."""
    parts = []
    while node.parent is not node:
        parts.append(os.fsdecode(node.name))
        node = node.parent
    return "/" + "/".join(reversed(parts))
