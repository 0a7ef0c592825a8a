"""Image sources that are archives: `oci-archive:PATH` and `docker-archive:PATH`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import UsageError

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore, Progress
    from plugengine.spec import Image


def resolve(store: ImageStore, reference: str, *, pull: str, progress: Progress | None) -> Image:  # noqa: ARG001
    """Load the archive and return its only image; layers that are in the store are not read again."""
    path = reference.partition(":")[2]
    images = store.load(path, progress=progress)
    if len(images) != 1:
        names = ", ".join(name for image in images for name in image.names)
        raise UsageError(f"image {reference}: the archive holds {len(images)} images", hint=f"now loaded: {names}")
    return images[0]
