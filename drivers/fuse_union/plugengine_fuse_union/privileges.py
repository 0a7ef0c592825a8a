"""Clear what makes a program run as another: set-id bits, once somebody who may not keep them has changed it.

The disk would keep the bits, as this process may write to anything; and the kernel, which executes by the attributes
it remembers, has to ask for them again. Capabilities of a program are no matter here: the disk takes them away at every
write, whoever writes, and the kernel always asks for them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from plugengine.kernel.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

_USER_NS_INIT_INO: Final = 0xEFFFFFFD  # include/uapi/linux/nsfs.h
_CAP_FSETID: Final = 1 << CAPABILITIES["CAP_FSETID"]
_EFFECTIVE: Final = b"CapEff:\t"  # proc_pid_status(5)


def is_set_id(mode: int) -> bool:
    """Tell whether a write clears something of a mode: setuid, or setgid of what a group may execute."""
    return bool(mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP))


def clear_set_id(union: Union, node: Node, fd: int) -> None:
    """Clear the bits of an open file that has been changed, and have the kernel ask for its attributes again."""
    mode = os.fstat(fd).st_mode
    if not is_set_id(mode):
        return
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    os.chmod(fd, stat.S_IMODE(kept))
    if node.nodeid:
        union.stale.append(node.nodeid)


def keeps_set_id(thread: int) -> bool:
    """Tell whether a thread has CAP_FSETID, as capable() of the kernel: in the first user namespace.

    Args:
        thread: Its number as the request tells; one that waits for an answer does not change meanwhile.
    """
    try:
        if os.stat(f"/proc/{thread}/ns/user").st_ino != _USER_NS_INIT_INO:
            return False
        with open(f"/proc/{thread}/status", "rb") as stream:
            found = stream.read().partition(_EFFECTIVE)[2].split(maxsplit=1)[0]
    except (OSError, IndexError):
        return False  # it was killed, or this process does not see it
    return bool(int(found, 16) & _CAP_FSETID)
