"""Let a copied-up file go on as a new node while old readers keep the layer's file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine_fuse_union.nodes import Node

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union


def supersede(union: Union, node: Node) -> Node:
    """Give the file of a node a new node with the same st_ino, and let its names lead there.

    The kernel refuses (EIO) to open a node on another backing file, or unpassed, while it is open on one. Told
    ESTALE it looks the name up again, finds the new node and opens that; readers of the old one keep what they
    opened, as with overlayfs before Linux 4.19. The old node must not be opened on the layer's file for writing: the
    kernel would write into the layer.

    Until the old node is forgotten, attributes of neither are cached, as changes through one are not seen by the
    other.
    """
    fresh = Node(node.parent, node.name, node.kind, node.ino, upper=True)
    fresh.fd, node.fd = node.fd, -1
    fresh.kept, node.kept = node.kept, -1
    fresh.names, node.names = node.names, None
    fresh.link, node.link = node.link, 0
    if fresh.link:
        union.links[fresh.link] = fresh
    for parent, name in ((fresh.parent, fresh.name), *(fresh.names or ())):
        if parent.children.get(name) is node:
            parent.children[name] = fresh
    fresh.twin = node.twin = True
    fresh.restless = node.restless
    node.successor = fresh
    union.remember(fresh)  # as long as the old node lives
    if node.nodeid in union.fresh_copies:
        union.fresh_copies.add(fresh.nodeid)
    return fresh
