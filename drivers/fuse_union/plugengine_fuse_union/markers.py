"""Whiteouts and the private xattrs of the kernel's overlayfs; Documentation/filesystems/overlayfs.rst."""

from __future__ import annotations

import errno
import os
from struct import Struct
from typing import Final

from plugengine.trees.whiteouts import IMPURE, OPAQUE, YES

# Of our own, below the prefix that every overlay hides: the st_ino a file had before copy-up. The kernel keeps a
# file handle in trusted.overlay.origin for that, which not every filesystem can give.
INODE: Final = "trusted.overlay.pe_inode"

_INODE: Final = Struct("<Q")
_ABSENT: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP})


def lstat(dir_fd: int, name: bytes) -> os.stat_result | None:
    """fstatat(2) without following; None where there is no such entry."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def get_marker(dir_fd: int, name: bytes, attribute: str) -> bytes | None:
    """Return an xattr of an entry, None if there is none.

    The xattr calls take no directory descriptor before Linux 6.13, and /proc may be missing; so the server goes there.
    """
    os.fchdir(dir_fd)
    try:
        return os.getxattr(name, attribute, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return None
        raise


def set_marker(dir_fd: int, name: bytes, attribute: str, value: bytes) -> None:
    """Set an xattr of an entry, see `get_marker`."""
    os.fchdir(dir_fd)
    os.setxattr(name, attribute, value, follow_symlinks=False)


def is_opaque(dir_fd: int, name: bytes) -> bool:
    """Tell whether nothing below this directory shows through."""
    return get_marker(dir_fd, name, OPAQUE) == YES


def is_impure(dir_fd: int, name: bytes) -> bool:
    """Tell whether entries of this upper directory may keep the st_ino of a lower file."""
    return get_marker(dir_fd, name, IMPURE) == YES


def get_inode(dir_fd: int, name: bytes) -> int | None:
    """Return the st_ino an upper file keeps from before its copy-up."""
    value = get_marker(dir_fd, name, INODE)
    if value is None or len(value) != _INODE.size:
        return None
    number: int = _INODE.unpack(value)[0]
    return number


def set_inode(dir_fd: int, name: bytes, ino: int) -> None:
    """Keep the st_ino of a file over its copy-up."""
    set_marker(dir_fd, name, INODE, inode_value(ino))


def inode_value(ino: int) -> bytes:
    """Return a number as `get_inode` reads it."""
    return _INODE.pack(ino)
