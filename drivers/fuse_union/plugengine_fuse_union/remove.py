"""Remove names, with a whiteout where a layer would show through."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from plugengine_fuse_union.copyup import copy_up, purge_whiteouts
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.listing import is_empty
from plugengine_fuse_union.lookup import existing, shows_through
from plugengine_fuse_union.nodes import DirNode, Node

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union


def unlink(union: Union, parent: DirNode, name: bytes) -> None:
    """Remove a name that is no directory."""
    node = existing(union, parent, name)
    if isinstance(node, DirNode):
        raise refused(errno.EISDIR)
    stage = union.require_writable()
    covered = shows_through(union, parent, name)
    copy_up(union, parent)
    dir_fd = union.upper_fd(parent)
    if node.upper:
        union.pin(node)
        if covered:
            stage.replace_by_whiteout(dir_fd, name, directory=False)
        else:
            os.unlink(name, dir_fd=dir_fd)
    else:
        stage.whiteout(dir_fd, name)
    left(union, node, parent, name)


def rmdir(union: Union, parent: DirNode, name: bytes) -> None:
    """Remove a directory that shows no entry."""
    node = existing(union, parent, name)
    if not isinstance(node, DirNode):
        raise refused(errno.ENOTDIR)
    stage = union.require_writable()
    if not is_empty(union, node):
        raise refused(errno.ENOTEMPTY)
    covered = shows_through(union, parent, name)
    copy_up(union, parent)
    dir_fd = union.upper_fd(parent)
    if node.upper:
        union.pin(node)
        if covered:
            stage.replace_by_whiteout(dir_fd, name, directory=True)
        else:
            remove_empty(union, node, dir_fd, name)
    else:
        stage.whiteout(dir_fd, name)
    left(union, node, parent, name)


def remove_empty(union: Union, node: DirNode, dir_fd: int, name: bytes) -> None:
    """Remove an upper directory in which nothing but whiteouts is left."""
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        purge_whiteouts(union.upper_fd(node))
        os.rmdir(name, dir_fd=dir_fd)


def left(union: Union, node: Node, parent: DirNode, name: bytes) -> None:
    """Take note that a name does not lead to its node any more; an upper node is pinned by now."""
    parent.children.pop(name, None)
    if parent.listing is not None:
        parent.listing.discard(name)
    if node.names:
        _use_another_name(node, parent, name)
    elif node.link and node.fd >= 0 and os.fstat(node.fd).st_nlink > 0:
        pass  # names that nobody has looked up since; the descriptor leads there
    else:
        node.gone = True
        if isinstance(node, DirNode):
            union.listings.drop(node)
        if node.fd >= 0 and node.nodeid:
            union.removed.add(node.nodeid)
        if node.opened is not None:
            union.on_drop(node)
    if node.lookups <= 0:
        union.drop(node)


def _use_another_name(node: Node, parent: DirNode, name: bytes) -> None:
    if node.names is None:
        return
    if (parent, name) in node.names:
        node.names.remove((parent, name))
    else:
        node.parent, node.name = node.names.pop()
    if node.fd >= 0:
        os.close(node.fd)
        node.fd = -1
