"""Change owner, mode, size and times of a node."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from plugengine.kernel.attributes import fchmodat, fchownat, utimensat

from plugengine_fuse_union.copyup import copy_up
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.privileges import SET_ID, change, left_by

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.privileges import Requester
    from plugengine_fuse_union.union import Union

_CLOCK_REALTIME_COARSE: Final = 5  # linux/time.h; Python has no name for it


def set_owner(union: Union, node: Node, uid: int, gid: int) -> None:
    """Change the owner (ids of the kernel, -1 leaves one); as chown(2) does, setuid and capabilities go."""
    if union.owners is not None:
        uid = uid if uid == -1 else union.owners.uid_to_disk(uid)
        gid = gid if gid == -1 else union.owners.gid_to_disk(gid)
    copy_up(union, node)
    if node.fd >= 0:
        fchownat(node.fd, b"", uid, gid, 0)
        return
    dir_fd, name = union.place(node)
    os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)


def set_nothing(union: Union, node: Node, requester: Requester) -> None:
    """Do what a SETATTR of nothing is for: set-id bits go before the kernel writes, or only the time of change moves.

    The time moves by chown(2) that leaves owner and group, which anybody may call: it must clear no bits of a file that
    nobody writes to.
    """
    status = union.stored(node)
    if not (stat.S_ISREG(node.kind) and status.st_mode & SET_ID):
        set_owner(union, node, -1, -1)
    elif node.opened is not None and node.opened.writers:
        set_mode(union, node, left_by(union, status, requester))


def set_mode(union: Union, node: Node, mode: int) -> None:
    """Change the permission bits."""
    if stat.S_ISLNK(node.kind):
        raise refused(errno.EOPNOTSUPP)
    copy_up(union, node)
    if node.fd >= 0:
        fchmodat(node.fd, b"", stat.S_IMODE(mode), 0)
        return
    # The name is no symlink, and nobody but this server changes the upper directory.
    dir_fd, name = union.place(node)
    os.chmod(name, stat.S_IMODE(mode), dir_fd=dir_fd)


def set_size(union: Union, node: Node, size: int, requester: Requester) -> None:
    """Truncate or extend a regular file; of a layer's file only the data that stays is copied."""
    copy_up(union, node, size=size)
    fd = union.open_data(node, os.O_WRONLY)
    try:
        change(union, node, fd, requester, lambda: os.ftruncate(fd, size))
    finally:
        os.close(fd)


def set_times(union: Union, node: Node, atime_ns: int | None, mtime_ns: int | None) -> None:
    """Set times in ns since the epoch; None leaves one."""
    copy_up(union, node)
    if node.fd >= 0:
        utimensat(node.fd, b"", atime_ns, mtime_ns, 0)
    else:
        dir_fd, name = union.place(node)
        utimensat(dir_fd, name, atime_ns, mtime_ns)


def set_times_now(union: Union, node: Node) -> None:
    """Set both times to now, which is allowed also for append-only files, where a given time is not."""
    if node.fd < 0:
        copy_up(union, node)
        dir_fd, name = union.place(node)
        os.utime(name, dir_fd=dir_fd, follow_symlinks=False)
    elif stat.S_ISREG(node.kind):
        os.utime(node.fd)
    else:
        set_times(union, node, now_ns(), now_ns())  # of an O_PATH descriptor


def now_ns() -> int:
    """Return the time the kernel would give a file it writes now.

    The precise clock runs up to a tick ahead of it: `touch a; echo >b` would leave b older than a.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def kill_setgid(union: Union, node: Node) -> None:
    """Clear setgid, as setting an ACL by somebody outside the file's group does."""
    mode = union.status(node).st_mode
    if mode & stat.S_ISGID:
        set_mode(union, node, mode & ~stat.S_ISGID)
