"""What makes a program run as another, set-id bits, goes when somebody who may not keep them changes the program.

This process may write to anything and keeps them, so they are cleared by the rights of who asks; and the kernel, which
executes by the attributes it remembers, is told before the answer. Before the kernel itself writes to a file that is
passed through, for somebody who may not keep the bits, it sends a SETATTR of nothing: fuse_setattr() of Linux leaves it
to the server what to clear.

Capabilities of a program are no matter here: the disk takes them away at every write, whoever writes, and the kernel
always asks for them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from plugengine.kernel.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_CAP_FSETID: Final = 1 << CAPABILITIES["CAP_FSETID"]
_USER_NS_INIT_INO: Final = 0xEFFFFFFD  # include/uapi/linux/nsfs.h
_T = TypeVar("_T")


class Requester:
    """Who changes a file, as far as its set-id bits go; found out only where there are some."""

    def __init__(self, thread: int, gid: int, *, capable: bool | None = None) -> None:
        """Describe them.

        Args:
            thread: The thread that waits for the answer, so its credentials do not change; 0: not to be seen from here.
            gid: Its group, as the kernel tells.
            capable: Whether it has CAP_FSETID, where the kernel has told.
        """
        self._thread = thread
        self._gid = gid
        self._capable = capable

    @property
    def capable(self) -> bool:
        """Whether it has CAP_FSETID in the first user namespace, which is what counts for the kernel."""
        if self._capable is None:
            self._capable = self._in_first_namespace() and bool(int(self._status(b"CapEff:") or b"0", 16) & _CAP_FSETID)
        return self._capable

    def is_in(self, group: int) -> bool:
        """Tell whether a group, by the number the kernel has for it, is one of theirs."""
        return group == self._gid or group in map(int, self._status(b"Groups:").split())

    def _in_first_namespace(self) -> bool:
        try:
            return os.stat(f"/proc/{self._thread}/ns/user").st_ino == _USER_NS_INIT_INO
        except OSError:
            return False

    def _status(self, field: bytes) -> bytes:
        """Return a line of proc_pid_status(5); nothing if the process is gone or not to be seen."""
        try:
            with open(f"/proc/{self._thread}/status", "rb") as stream:
                return stream.read().partition(b"\n" + field)[2].partition(b"\n")[0].strip()
        except OSError:
            return b""


def left_by(union: Union, status: os.stat_result, requester: Requester) -> int:
    """Return the mode that a change of the data leaves, setattr_should_drop_suidgid() of the kernel."""
    mode = status.st_mode
    return mode if requester.capable else without_setgid(union, status, requester) & ~stat.S_ISUID


def without_setgid(union: Union, status: os.stat_result, requester: Requester) -> int:
    """Return the mode without setgid, unless it makes nobody run as another and the requester is of the group."""
    mode = status.st_mode
    gid = status.st_gid if union.owners is None else union.owners.to_host(status.st_uid, status.st_gid)[1]
    return mode if not mode & stat.S_IXGRP and requester.is_in(gid) else mode & ~stat.S_ISGID


def change(union: Union, node: Node, fd: int, requester: Requester, act: Callable[[], _T]) -> _T:
    """Change the data of an open file; before, the bits go that the requester may not keep."""
    status = os.fstat(fd)
    if status.st_mode & SET_ID:
        left = left_by(union, status, requester)
        if left != status.st_mode:
            os.chmod(fd, stat.S_IMODE(left))
            if node.nodeid:
                union.stale.append(node.nodeid)
    return act()
