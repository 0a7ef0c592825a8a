"""Names inside archives: bytes, relative to the layer's root, never above it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.trees.whiteouts import TAR_PREFIX

if TYPE_CHECKING:
    from plugengine.images.tar.limits import Caps

_NAME_BYTES = 255 + len(TAR_PREFIX)  # NAME_MAX, of the file that a whiteout hides


def normalise(name: bytes, caps: Caps) -> bytes:
    """Return the path without leading "/", "." and ".."; empty for the root itself.

    As docker does: absolute means relative to the root, and ".." is folded by its letters.

    Raises:
        ImageError: The path leads above the root, or is too long or too deep for any filesystem.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise ImageError(f"entry {shown(name)}: leads out of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    path = b"/".join(parts)
    if b"\0" in path:
        raise ImageError(f"entry {shown(name)}: holds a NUL byte")
    if len(path) > caps.path_bytes or any(len(part) > _NAME_BYTES for part in parts):
        raise ImageError(f"entry {shown(name[:64])}…: the name is too long")
    if len(parts) > caps.depth:
        raise ImageError(f"entry {shown(name[:64])}…: more than {caps.depth} directories deep")
    return path


def shown(path: bytes) -> str:
    """Return a path as a message may hold it: no control characters, no lone surrogates."""
    return os.fsdecode(path).encode("unicode_escape").decode("ascii")
