"""How a layer says "deleted", on disk and in a tar, and which extended attributes belong to its content."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

# Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"
OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_VALUE = b"y"
WHITEOUT_MODE = stat.S_IFCHR
WHITEOUT_DEVICE = 0
# What these mean cannot be said in a tar.
UNSPEAKABLE_XATTRS = ("trusted.overlay.redirect", "trusted.overlay.metacopy")

# OCI image-spec, layer.md, "Whiteouts"
WHITEOUT_PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"

CAPABILITY_XATTR = b"security.capability"
_EXACT = frozenset({CAPABILITY_XATTR, b"system.posix_acl_access", b"system.posix_acl_default"})
# Attributes by which overlayfs and fuse-overlayfs steer themselves: an image must not.
_STEERING = (b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.")


def is_whiteout(found: os.stat_result) -> bool:
    """Tell whether this is a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == WHITEOUT_DEVICE


def is_content_xattr(name: bytes) -> bool:
    """Tell whether the attribute travels with a layer; the others are the host's or a filesystem's own."""
    return name in _EXACT or (name.startswith(b"user.") and not name.startswith(_STEERING))
