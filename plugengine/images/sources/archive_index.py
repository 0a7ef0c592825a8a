"""What the table of contents of an image archive says, in whichever format it was."""

from __future__ import annotations

from msgspec import Struct

from plugengine.errors import ImageError
from plugengine.images.tar.limits import IMAGES


class Part(Struct, frozen=True, kw_only=True):
    """Where one layer is in the archive, and what must be true of its stored bytes."""

    name: str
    digest: str | None = None  # docker-archive: unknown, the diff id alone is checked
    size: int | None = None


class Found(Struct, frozen=True, kw_only=True):
    """One image of an archive, its manifest and config read and checked."""

    config: bytes
    layers: tuple[Part, ...]
    names: tuple[str, ...]
    manifest: bytes | None = None  # None: it gets one of our own


def check_count(images: int, what: str) -> None:
    """Raise ImageError when a table of contents names more images than any real one."""
    if images > IMAGES:
        raise ImageError(f"{what}: names {images} images, more than {IMAGES}", hint="this looks like a bomb")
