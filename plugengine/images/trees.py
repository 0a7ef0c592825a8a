"""Remove trees by descriptor: no symlink is followed and no path is built."""

from __future__ import annotations

import os
import stat

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(parent_fd: int, name: str | bytes) -> None:
    """Remove an entry and all below it; one that is not there counts as removed."""
    try:
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd)
        try:
            empty(fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)
    else:
        os.unlink(name, dir_fd=parent_fd)


def empty(directory_fd: int) -> None:
    """Remove everything inside a directory.

    One descriptor is held for each level and no recursion takes place: layers are at most `Caps.depth` deep.
    """
    stack: list[tuple[int, str]] = [(os.dup(directory_fd), "")]
    try:
        while stack:
            fd, _ = stack[-1]
            below = _remove_files(fd)
            if below is not None:
                stack.append((os.open(below, _OPEN_DIRECTORY, dir_fd=fd), below))
                continue
            _, name = stack.pop()
            os.close(fd)
            if stack:
                os.rmdir(name, dir_fd=stack[-1][0])
    finally:
        for fd, _ in stack:
            os.close(fd)


def remove_path(path: str) -> None:
    """Remove a tree by its path, whose parents are the engine's own."""
    parent, name = os.path.split(path)
    try:
        fd = os.open(parent, _OPEN_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove(fd, name)
    finally:
        os.close(fd)


def _remove_files(fd: int) -> str | None:
    """Remove what is no directory; return the name of a directory that is still there, if any."""
    below = None
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            below = name
    return below
