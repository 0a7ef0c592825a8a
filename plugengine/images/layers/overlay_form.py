"""Which extended attributes belong to the content of a layer, and which cannot be said in a tar."""

from __future__ import annotations

from plugengine.trees.whiteouts import METACOPY, REDIRECT

# What these mean cannot be said in a tar.
UNSPEAKABLE_XATTRS = (REDIRECT, METACOPY)

CAPABILITY_XATTR = b"security.capability"
_EXACT = frozenset({CAPABILITY_XATTR, b"system.posix_acl_access", b"system.posix_acl_default"})
# Attributes by which overlayfs and fuse-overlayfs steer themselves: an image must not.
_STEERING = (b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.")


def is_content_xattr(name: bytes) -> bool:
    """Tell whether the attribute travels with a layer; the others are the host's or a filesystem's own."""
    return name in _EXACT or (name.startswith(b"user.") and not name.startswith(_STEERING))
