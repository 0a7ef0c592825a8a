"""Whiteouts and opaque marks that are files, as in archives: `.wh.NAME` and `.wh..wh..opq`.

podman and buildah unpack layers so for a mount program; see "Whiteouts" in the OCI image layer specification.
"""

from __future__ import annotations

import errno

from plugengine.trees.whiteouts import TAR_OPAQUE, TAR_PREFIX

from plugengine_fuse_union.markers import lstat


def is_marker(name: bytes) -> bool:
    """Tell whether a name of a layer is a mark and never shown."""
    return name.startswith(TAR_PREFIX)


def marked(name: bytes) -> bytes:
    """Return the name that a marker removes from the layers below; for an opaque mark, one that is never shown."""
    return name[len(TAR_PREFIX) :]


def is_removed(dir_fd: int, name: bytes) -> bool:
    """Tell whether a layer's directory hides a name of the layers below."""
    try:
        return lstat(dir_fd, TAR_PREFIX + name) is not None
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        return False  # a name too long to be marked


def is_opaque(dir_fd: int, name: bytes) -> bool:
    """Tell whether a directory of a layer hides those of the layers below."""
    return lstat(dir_fd, name + b"/" + TAR_OPAQUE) is not None
