"""Give a root filesystem the owners of a user namespace, for storage drivers that cannot show mapped ones."""

from __future__ import annotations

import os
import stat

from plugengine.model import HostPath, UserMap
from plugengine.trees.copy import owner_outside


def shift_tree(root: HostPath, user_map: UserMap) -> None:
    """Change every owner below `root` from the guest's number to the host's; links are not followed.

    Ids the map does not hold stay as they are (the guest sees them as nobody). Set-id bits and file capabilities,
    which chown(2) clears, are put back. Not to be run twice on one tree.
    """
    linked: set[tuple[int, int]] = set()  # inodes with several names are shifted at the first
    for _directory, names, files, at in os.fwalk(root, follow_symlinks=False):
        for name in (".", *files, *(name for name in names if _is_link(name, at))):
            _shift(name, at, user_map, linked)


def _is_link(name: str, at: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def _shift(name: str, at: int, user_map: UserMap, linked: set[tuple[int, int]]) -> None:
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
        if (found.st_dev, found.st_ino) in linked:
            return
        linked.add((found.st_dev, found.st_ino))
    uid, gid = owner_outside(found, user_map)
    if (uid, gid) == (found.st_uid, found.st_gid):
        return
    path = f"/proc/self/fd/{at}/{name}"
    capability = _capability(path) if stat.S_ISREG(found.st_mode) else None
    os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=at)
    if capability is not None:
        os.setxattr(path, "security.capability", capability, follow_symlinks=False)


def _capability(path: str) -> bytes | None:
    try:
        return os.getxattr(path, "security.capability", follow_symlinks=False)
    except OSError:
        return None
