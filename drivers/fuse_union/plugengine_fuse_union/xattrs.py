"""Extended attributes; the private ones of the union are hidden, those of a union inside a container are escaped."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, TypeVar

from plugengine.trees.whiteouts import ESCAPED, STEERING

from plugengine_fuse_union.copyup import copy_up
from plugengine_fuse_union.errors import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

_ACLS: Final = frozenset({"system.posix_acl_access", "system.posix_acl_default"})
Target = int | bytes
T = TypeVar("T")


def get(union: Union, node: Node, name: str) -> bytes:
    """Return a value; ENODATA: there is none."""
    value = _at(union, node, lambda target: os.getxattr(target, _stored(name), follow_symlinks=_follows(target)))
    return union.owners.acl_to_host(value) if union.owners is not None and name in _ACLS else value


def list_names(union: Union, node: Node) -> list[str]:
    """Return the visible names."""
    stored = _at(union, node, lambda target: os.listxattr(target, follow_symlinks=_follows(target)))
    return [_shown(name) for name in stored if not name.startswith(STEERING) or name.startswith(ESCAPED)]


def set_value(union: Union, node: Node, name: str, value: bytes, flags: int) -> None:
    """Set a value, with XATTR_CREATE or XATTR_REPLACE as flags."""
    if union.owners is not None and name in _ACLS:
        value = union.owners.acl_to_disk(value)
    copy_up(union, node)

    def apply(target: Target) -> None:
        os.setxattr(target, _stored(name), value, flags, follow_symlinks=_follows(target))

    _at(union, node, apply)


def remove(union: Union, node: Node, name: str) -> None:
    """Remove a value; ENODATA: there is none, and nothing is copied up for it."""
    if not node.upper:
        get(union, node, name)
    copy_up(union, node)
    _at(union, node, lambda target: os.removexattr(target, _stored(name), follow_symlinks=_follows(target)))


def _at(union: Union, node: Node, call: Callable[[Target], T]) -> T:
    """Call with what the xattr calls accept: a descriptor, or a name in the current directory."""
    if node.fd < 0:
        dir_fd, name = union.place(node)
        os.fchdir(dir_fd)
        return call(name)
    if stat.S_ISREG(node.kind) or stat.S_ISDIR(node.kind):
        return call(node.fd)
    raise refused(errno.EOPNOTSUPP)  # a symlink or special file without a name, held by an O_PATH descriptor


def _follows(target: Target) -> bool:
    return isinstance(target, int)


def _stored(name: str) -> str:
    """Return the name on disk, see "Nesting overlayfs mounts" of overlayfs.rst."""
    return ESCAPED + name.removeprefix(STEERING) if name.startswith(STEERING) else name


def _shown(name: str) -> str:
    return STEERING + name.removeprefix(ESCAPED) if name.startswith(ESCAPED) else name
