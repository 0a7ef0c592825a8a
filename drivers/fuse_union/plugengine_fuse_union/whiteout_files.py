"""Whiteouts and opaque marks that are files, as in archives: `.wh.NAME` and `.wh..wh..opq`.

podman and buildah unpack layers so for a mount program; see "Whiteouts" in the OCI image layer specification.
"""

from __future__ import annotations

import errno
from typing import Final

from plugengine_fuse_union.markers import lstat

_PREFIX: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"


def is_marker(name: bytes) -> bool:
    """Tell whether a name of a layer is a mark and never shown."""
    return name.startswith(_PREFIX)


def marked(name: bytes) -> bytes:
    """Return the name that a marker removes from the layers below; for an opaque mark, one that is never shown."""
    return name[len(_PREFIX) :]


def is_removed(dir_fd: int, name: bytes) -> bool:
    """Tell whether a layer's directory hides a name of the layers below."""
    try:
        return lstat(dir_fd, _PREFIX + name) is not None
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        return False  # a name too long to be marked


def is_opaque(dir_fd: int, name: bytes) -> bool:
    """Tell whether a directory of a layer hides those of the layers below."""
    return lstat(dir_fd, name + b"/" + OPAQUE) is not None
