"""Image sources that are archives: `oci-archive:PATH` and `docker-archive:PATH`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import UsageError

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore
    from plugengine.spec import Image


def resolve(store: ImageStore, reference: str) -> Image:
    """Load the archive and return its only image."""
    path = reference.partition(":")[2]
    images = store.load(path)
    if len(images) != 1:
        names = ", ".join(name for image in images for name in image.names)
        raise UsageError(f"image {reference}: the archive holds {len(images)} images", hint=f"now loaded: {names}")
    return images[0]
