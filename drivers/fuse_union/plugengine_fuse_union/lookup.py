"""Find a name in a directory of the union: upper first, then the layers, whiteouts and opaque directories heeded."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING

from plugengine.trees.whiteouts import is_whiteout

from plugengine_fuse_union import markers, whiteout_files
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.layers import LayerDir
from plugengine_fuse_union.markers import is_opaque, lstat
from plugengine_fuse_union.nodes import DirNode, Node, unpin
from plugengine_fuse_union.redirects import Descent, data_below, directories_below, refuse_redirect, with_blocks_of

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union


Found = tuple[Node, os.stat_result]


def look_up(union: Union, parent: DirNode, name: bytes) -> Found | None:
    """Return the node of a name, a live one or a new one, and its attributes; None where there is no such entry."""
    node = parent.children.get(name)
    if node is not None:
        return node, union.status(node)
    if parent.gone:
        return None
    found = _find(union, parent, name)
    if found is not None:
        parent.children[name] = found[0]
    return found


def child(union: Union, parent: DirNode, name: bytes) -> Node | None:
    """Return the node of a name; None where there is no such entry."""
    node = parent.children.get(name)
    if node is not None:
        return node
    found = look_up(union, parent, name)
    return None if found is None else found[0]


def existing(union: Union, parent: DirNode, name: bytes) -> Node:
    """Return the node of a name that must be there.

    Raises:
        OSError: ENOENT.
    """
    node = child(union, parent, name)
    if node is None:
        raise refused(errno.ENOENT)
    return node


def _find(union: Union, parent: DirNode, name: bytes) -> Found | None:
    if parent.upper:
        dir_fd = union.upper_fd(parent)
        status = lstat(dir_fd, name)
        if status is not None:
            if is_whiteout(status):
                return None
            return _shown(_upper_node(union, parent, name, dir_fd, status), status)
    if not parent.lowers:
        return None
    return _followed_node(union, parent, name) if union.follows else _lower_node(union, parent, name)


def _shown(node: Node, status: os.stat_result) -> Found:
    return node, status if node.data is None else with_blocks_of(status, node.data.status)


def _upper_node(union: Union, parent: DirNode, name: bytes, dir_fd: int, status: os.stat_result) -> Node:
    kept = markers.get_inode(dir_fd, name) if parent.impure else None
    ino = union.number(status.st_ino, 0) if kept is None else kept
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        return _upper_directory(union, parent, name, dir_fd, ino, kept=kept is not None)
    if status.st_nlink > 1:
        node = _linked(union, parent, name, kind, ino, status)
    else:
        node = Node(parent, name, kind, ino, upper=True)
    # What we have copied up, and so has a number kept, is whole.
    if union.follows and kept is None and node.nodeid == 0 and kind == stat.S_IFREG:
        node.data = data_below(union, parent, dir_fd, name)
    return node


def _upper_directory(union: Union, parent: DirNode, name: bytes, dir_fd: int, ino: int, *, kept: bool) -> DirNode:
    node = DirNode(parent, name, stat.S_IFDIR, ino, upper=True)
    node.impure = markers.is_impure(dir_fd, name)
    if (parent.lowers or union.follows) and not is_opaque(dir_fd, name):
        if union.follows:
            node.lowers = directories_below(union, parent, dir_fd, name)
        else:
            refuse_redirect(dir_fd, name)
            node.lowers = lower_directories(union, parent.lowers, name)
        if node.lowers and not kept:
            node.ino = lower_number(union, node.lowers[0])
    return node


def _linked(union: Union, parent: DirNode, name: bytes, kind: int, ino: int, status: os.stat_result) -> Node:
    """Return the one node of an upper file with several names."""
    node = union.links.get(status.st_ino)
    if node is None:
        node = Node(parent, name, kind, ino, upper=True)
        register_link(union, node, status.st_ino)
        return node
    add_name(node, parent, name)
    return node


def register_link(union: Union, node: Node, disk_ino: int) -> None:
    """Make every name of an upper file lead to this node."""
    node.link = disk_ino
    node.names = []
    union.links[disk_ino] = node


def add_name(node: Node, parent: DirNode, name: bytes) -> None:
    """Take note of a further name of a file; it becomes the one to use where the file had lost its own."""
    if node.fd >= 0 and not node.gone:
        unpin(node)
        node.parent, node.name = parent, name
    elif node.names is not None and (parent, name) not in node.names:
        node.names.append((parent, name))


def _lower_node(union: Union, parent: DirNode, name: bytes) -> Found | None:
    marked = union.whiteout_files
    if marked and whiteout_files.is_marker(name):
        return None
    for index, candidate in enumerate(parent.lowers):
        dir_fd = union.lower_fd(candidate)
        status = lstat(dir_fd, name)
        if status is None:
            if marked and whiteout_files.is_removed(dir_fd, name):
                return None
            continue
        if is_whiteout(status):
            return None
        ino = union.number(status.st_ino, candidate.device)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            node = DirNode(parent, name, kind, ino, upper=False)
            node.lowers = lower_directories(union, parent.lowers[index:], name)
            return node, status
        # Names of one lower file are nodes of their own: a copy-up breaks the link, as in overlayfs without "index".
        leaf = Node(parent, name, kind, ino, upper=False)
        leaf.lower = candidate
        return leaf, status
    return None


def _followed_node(union: Union, parent: DirNode, name: bytes) -> Found | None:
    """Do the same where overlayfs' marks for what was moved or copied without its data are heeded."""
    if union.whiteout_files and whiteout_files.is_marker(name):
        return None
    descent = Descent(union, name)
    found = descent.find(parent.lowers)
    if not found:
        return None
    if descent.metacopy:
        raise refused(errno.EIO)  # the data is nowhere
    directory, _, status = found[0]
    kind = stat.S_IFMT(status.st_mode)
    ino = union.number(status.st_ino, directory.device)
    if kind == stat.S_IFDIR:
        node = DirNode(parent, name, kind, ino, upper=False)
        node.lowers = tuple(LayerDir(place.directory, place.name, place.directory.device) for place in found)
        return node, status
    leaf = Node(parent, name, kind, ino, upper=False)
    leaf.lower = directory
    leaf.data = found[-1] if len(found) > 1 else None
    return _shown(leaf, status)


def lower_directories(union: Union, candidates: Iterable[LayerDir], name: bytes) -> tuple[LayerDir, ...]:
    """Return the directories of that name that merge, topmost first; a file, whiteout or opaque one ends them."""
    found: list[LayerDir] = []
    above = -1  # directory descriptor of the last one found, whose marker matters only if another follows
    marked = union.whiteout_files
    for candidate in candidates:
        dir_fd = union.lower_fd(candidate)
        status = lstat(dir_fd, name)
        if status is None:
            if marked and whiteout_files.is_removed(dir_fd, name):
                break
            continue
        if not stat.S_ISDIR(status.st_mode) or (above >= 0 and is_opaque(above, name)):
            break
        if above >= 0:
            refuse_redirect(above, name)
        found.append(LayerDir(candidate, name, candidate.device))
        above = dir_fd
        if marked and (whiteout_files.is_opaque(dir_fd, name) or whiteout_files.is_removed(dir_fd, name)):
            break
    return tuple(found)


def lower_number(union: Union, directory: LayerDir) -> int:
    """Return the st_ino to show for a layer's directory."""
    if directory.parent is None:
        status = os.fstat(directory.fd)
    else:
        status = os.stat(directory.name, dir_fd=union.lower_fd(directory.parent), follow_symlinks=False)
    return union.number(status.st_ino, directory.device)


def shows_through(union: Union, parent: DirNode, name: bytes) -> bool:
    """Tell whether a layer has something of that name, so that removing it from upper needs a whiteout."""
    for candidate in parent.lowers:
        status = lstat(union.lower_fd(candidate), name)
        if status is not None:
            return not is_whiteout(status)
        if union.whiteout_files and whiteout_files.is_removed(union.lower_fd(candidate), name):
            return False
    return False
