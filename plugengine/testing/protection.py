"""Keep a wrong driver from the machine of who tests it: all but the case's own directory is read-only for it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from plugengine.kernel.files import AT_FDCWD
from plugengine.kernel.mount import (
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    mount_setattr,
    move_mount,
    open_tree,
)
from plugengine.kernel.mountinfo import mounts_at_or_below, read_mountinfo
from plugengine.model import HostPath

# Nothing of these outlives the machine's next start, and drivers work through some of them.
_PASSING: Final = frozenset(
    {
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "fusectl",
        "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "securityfs", "sysfs", "tmpfs", "tracefs",
    }
)  # fmt: skip


def protect_all_but(directory: HostPath) -> None:
    """Make the lasting filesystems read-only in this mount namespace, which must be a private one.

    A driver that follows a link out of a container when it removes one has emptied a good part of /etc here.

    Args:
        directory: Stays writable, with all below it.
    """
    own = {entry.mount_id for entry in mounts_at_or_below(read_mountinfo(), directory)}
    if not own:
        tree = open_tree(AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        try:
            move_mount(tree, "", AT_FDCWD, directory, MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
        own = {entry.mount_id for entry in mounts_at_or_below(read_mountinfo(), directory)}
    for entry in read_mountinfo():
        if entry.mount_id not in own and entry.fstype not in _PASSING:
            with suppress(OSError):  # hidden below another mount, or not ours to change: as good as it gets
                mount_setattr(AT_FDCWD, entry.mount_point, attr_set=MOUNT_ATTR_RDONLY)
