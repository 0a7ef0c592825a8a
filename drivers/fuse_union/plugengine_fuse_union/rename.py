"""Move and exchange names; a directory that layers contribute to is copied up whole before it moves."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from plugengine.kernel.files import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2
from plugengine.trees import whiteouts

from plugengine_fuse_union import markers
from plugengine_fuse_union.copyup import copy_up, copy_up_tree, mark_impure, purge_whiteouts
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.listing import entered, is_empty
from plugengine_fuse_union.lookup import child, existing, shows_through
from plugengine_fuse_union.nodes import DirNode, Node
from plugengine_fuse_union.remove import left
from plugengine_fuse_union.stage import remove_quietly

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union


def rename(
    union: Union, old_parent: DirNode, old_name: bytes, new_parent: DirNode, new_name: bytes, flags: int = 0
) -> None:
    """Move a name, or with RENAME_EXCHANGE swap two; RENAME_NOREPLACE refuses to replace.

    Raises:
        OSError: As renameat2(2); never EXDEV.
    """
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
        raise refused(errno.EINVAL)
    union.require_writable()
    node = existing(union, old_parent, old_name)
    other = child(union, new_parent, new_name)
    if flags & RENAME_EXCHANGE:
        if other is None:
            raise refused(errno.ENOENT)
        _exchange(union, node, old_parent, old_name, other, new_parent, new_name)
        return
    if other is not None and flags & RENAME_NOREPLACE:
        raise refused(errno.EEXIST)
    if other is node:
        return  # two names of one file: rename(2) leaves both
    _check_replaceable(union, node, other)
    _bring_up(union, node, old_parent, new_parent)
    _move(union, node, old_parent, old_name, other, new_parent, new_name)


def _check_replaceable(union: Union, node: Node, other: Node | None) -> None:
    if other is None:
        return
    if isinstance(other, DirNode):
        if not isinstance(node, DirNode):
            raise refused(errno.EISDIR)
        if not is_empty(union, other):
            raise refused(errno.ENOTEMPTY)
    elif isinstance(node, DirNode):
        raise refused(errno.ENOTDIR)


def _bring_up(union: Union, node: Node, *parents: DirNode) -> None:
    for parent in parents:
        if parent.gone:
            raise refused(errno.ENOENT)
        copy_up(union, parent)
    if isinstance(node, DirNode):
        copy_up_tree(union, node)
    else:
        copy_up(union, node)


def _move(
    union: Union,
    node: Node,
    old_parent: DirNode,
    old_name: bytes,
    other: Node | None,
    new_parent: DirNode,
    new_name: bytes,
) -> None:
    uncovers = shows_through(union, old_parent, old_name)
    if isinstance(node, DirNode):
        _make_opaque_for(union, node, old_parent, old_name, new_parent, new_name)
    if isinstance(other, DirNode) and other.upper:
        _make_really_empty(union, other)
    if other is not None:
        union.pin(other)
    old_fd, new_fd = union.upper_fd(old_parent), union.upper_fd(new_parent)
    hidden = markers.lstat(new_fd, new_name) if isinstance(node, DirNode) else None
    if hidden is not None and whiteouts.is_whiteout(hidden):
        # A directory cannot replace a whiteout, but it can change places with one.
        renameat2(old_fd, old_name, new_fd, new_name, RENAME_EXCHANGE)
        if not uncovers:
            os.unlink(old_name, dir_fd=old_fd)
    elif uncovers:
        _rename_leaving_whiteout(union, old_fd, old_name, new_fd, new_name)
    else:
        os.rename(old_name, new_name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
    if other is not None:
        left(union, other, new_parent, new_name)
    _renamed(union, node, old_parent, old_name, new_parent, new_name)


def _rename_leaving_whiteout(union: Union, old_fd: int, old_name: bytes, new_fd: int, new_name: bytes) -> None:
    """Move an entry and leave a whiteout, in one step where the filesystem can."""
    try:
        renameat2(old_fd, old_name, new_fd, new_name, RENAME_WHITEOUT)
    except OSError as exc:
        if exc.errno not in {errno.EINVAL, errno.ENOSYS, errno.EPERM}:
            raise
    else:
        return
    stage = union.require_writable()
    temporary = stage.new_name()
    stage.whiteout(stage.fd, temporary)
    try:
        os.rename(old_name, new_name, src_dir_fd=old_fd, dst_dir_fd=new_fd)
        os.rename(temporary, old_name, src_dir_fd=stage.fd, dst_dir_fd=old_fd)
    finally:
        remove_quietly(stage.fd, temporary)


def _make_opaque_for(
    union: Union, node: DirNode, old_parent: DirNode, old_name: bytes, new_parent: DirNode, new_name: bytes
) -> None:
    """Keep a directory that is about to move from merging with what layers have at its new place."""
    if shows_through(union, new_parent, new_name):
        markers.set_marker(union.upper_fd(old_parent), old_name, whiteouts.OPAQUE, whiteouts.YES)


def _make_really_empty(union: Union, node: DirNode) -> None:
    """Clear the whiteouts of a directory that shows nothing; opaque first, so that nothing shows through."""
    fd = union.upper_fd(node)
    markers.set_marker(fd, b".", whiteouts.OPAQUE, whiteouts.YES)
    node.lowers = ()
    purge_whiteouts(fd)


def _renamed(
    union: Union, node: Node, old_parent: DirNode, old_name: bytes, new_parent: DirNode, new_name: bytes
) -> None:
    if old_parent.children.get(old_name) is node:
        del old_parent.children[old_name]
    if old_parent.listing is not None:
        old_parent.listing.discard(old_name)
    _entered(union, node, old_parent, old_name, new_parent, new_name)
    union.drop(old_parent)


def _entered(
    union: Union, node: Node, old_parent: DirNode, old_name: bytes, new_parent: DirNode, new_name: bytes
) -> None:
    new_parent.children[new_name] = node
    if node.names and (old_parent, old_name) in node.names:
        node.names[node.names.index((old_parent, old_name))] = (new_parent, new_name)
    else:
        node.parent, node.name = new_parent, new_name
    if union.status(node).st_ino != node.ino:
        mark_impure(union, new_parent)
    entered(union, new_parent, new_name, node)
    if node.lookups <= 0:
        union.drop(node)


def _exchange(
    union: Union,
    first: Node,
    first_parent: DirNode,
    first_name: bytes,
    second: Node,
    second_parent: DirNode,
    second_name: bytes,
) -> None:
    if first is second:
        return
    _bring_up(union, first, first_parent, second_parent)
    _bring_up(union, second, first_parent, second_parent)
    if isinstance(first, DirNode):
        _make_opaque_for(union, first, first_parent, first_name, second_parent, second_name)
    if isinstance(second, DirNode):
        _make_opaque_for(union, second, second_parent, second_name, first_parent, first_name)
    renameat2(union.upper_fd(first_parent), first_name, union.upper_fd(second_parent), second_name, RENAME_EXCHANGE)
    for parent in (first_parent, second_parent):
        parent.listing = None
    del first_parent.children[first_name], second_parent.children[second_name]
    _entered(union, first, first_parent, first_name, second_parent, second_name)
    _entered(union, second, second_parent, second_name, first_parent, first_name)
