"""Remove subvolumes, also those somebody else has filled."""

from __future__ import annotations

import errno
import os
from typing import Final

from plugengine.kernel import btrfs
from plugengine.trees.remove import remove_tree

from plugengine_btrfs import limits

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# There are other subvolumes in it; it is a plain directory; it is a file.
_NOT_AT_ONCE: Final = (errno.ENOTEMPTY, errno.EINVAL, errno.ENOTDIR)


def remove(path: str, shared: str) -> None:
    """Remove a subvolume with all that is in it, by one call if there are no others inside; none counts as removed.

    The parents of `path` are the engine's own; what is below may be hostile.

    Args:
        path: The subvolume; what is there and is no subvolume is removed as well.
        shared: The driver's directory, where a quota group is noted until it can be removed.

    Raises:
        StateError, OSError: Something is left.
    """
    try:
        directory_fd = os.open(os.path.dirname(path), _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        number = limits.counted(path)
        try:
            btrfs.destroy_subvolume(directory_fd, os.path.basename(path))
        except OSError as exc:
            if exc.errno not in _NOT_AT_ONCE:
                raise
            remove_tree(path)
    except FileNotFoundError:
        return
    finally:
        os.close(directory_fd)
    if number is not None:
        limits.forget(number, shared)
