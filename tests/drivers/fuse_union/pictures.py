"""What is visible of a file or of a whole tree, in a form that can be compared."""

from __future__ import annotations

import os
import stat
from typing import Any

OLD_NS = 1_000_000_000 * 1_000_000_000  # a time in the past: set by hand or kept from a layer


def shown(status: os.stat_result) -> tuple[Any, ...]:
    """Return what must be equal of a stat result; times only where they are not of this run."""
    is_dir = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode),
        status.st_uid,
        status.st_gid,
        None if is_dir else status.st_nlink,
        None if is_dir else status.st_size,
        status.st_rdev,
        status.st_mtime_ns if status.st_mtime_ns < OLD_NS else None,
    )


def picture(root: str) -> dict[str, Any]:
    """Return everything visible below a directory."""
    seen: dict[str, Any] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        at = root + path
        status = os.lstat(at)
        content: Any = None
        names: list[str] = []
        if stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(at))
            content = names
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(at)
        elif stat.S_ISREG(status.st_mode):
            with open(at, "rb") as stream:
                content = stream.read()
        xattrs = {
            name: os.getxattr(at, name, follow_symlinks=False) for name in os.listxattr(at, follow_symlinks=False)
        }
        seen[path] = (*shown(status), content, xattrs)
        pending += [f"{path}/{name}" for name in names]
    return seen
