"""How a layer says "deleted": on disk as overlayfs reads it, and in a tar.

See Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", and layer.md of the OCI image-spec.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os

# What is deleted is a character device 0:0.
WHITEOUT_MODE: Final = stat.S_IFCHR
WHITEOUT_DEVICE: Final = 0

# Attributes by which overlayfs steers itself; fs/overlayfs/overlayfs.h.
STEERING: Final = "trusted.overlay."
ESCAPED: Final = "trusted.overlay.overlay."  # of an overlay inside another
OPAQUE: Final = "trusted.overlay.opaque"  # a directory that hides what lies below it, with the value:
YES: Final = b"y"
IMPURE: Final = "trusted.overlay.impure"
REDIRECT: Final = "trusted.overlay.redirect"
METACOPY: Final = "trusted.overlay.metacopy"

# In a tar what is deleted is an empty file of its name with a prefix, in a hiding directory there is one more.
TAR_PREFIX: Final = b".wh."
TAR_META_PREFIX: Final = b".wh..wh."
TAR_OPAQUE: Final = b".wh..wh..opq"


def is_whiteout(found: os.stat_result) -> bool:
    """Tell whether an entry says "deleted"."""
    return found.st_rdev == WHITEOUT_DEVICE and stat.S_ISCHR(found.st_mode)
