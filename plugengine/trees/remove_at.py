"""Remove trees by descriptor: no symlink is followed and no path is built."""

from __future__ import annotations

import os
import stat

from plugengine.kernel.files import names_in

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
    stack = [(os.dup(directory_fd), _remove_files(directory_fd))]
    try:
        while stack:
            fd, names = stack[-1]
            if names:
                below = os.open(names[-1], _OPEN_DIRECTORY, dir_fd=fd)
                stack.append((below, _remove_files(below)))
                continue
            os.close(stack.pop()[0])
            if stack:
                parent_fd, names = stack[-1]
                os.rmdir(names.pop(), dir_fd=parent_fd)
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


def _remove_files(fd: int) -> list[str]:
    """Remove what is no directory; return the names of the directories."""
    directories = []
    for name in names_in(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            directories.append(name)
    return directories
