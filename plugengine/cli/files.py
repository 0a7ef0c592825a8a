"""Files a command writes for its user: whole or not at all, and refused before the work rather than after it."""

from __future__ import annotations

import os

from plugengine.errors import PlugengineError


def check_place(what: str, path: str) -> None:
    """Raise PlugengineError if the directory of a file to be written is not there.

    Args:
        what: The kind of file, for the message.
        path: As given by the user.
    """
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise PlugengineError(f"write {what} {path}: no such directory")
    if os.path.isdir(path):
        raise PlugengineError(f"write {what} {path}: is a directory")


def write_whole(what: str, path: str, content: str | bytes) -> None:
    """Write a file, or leave the one that is there as it is. Raises: PlugengineError."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except OSError as exc:
        raise PlugengineError(f"write {what} {path}: {str(exc.strerror).lower()}") from exc
