"""Images: blobs, names, layers, archives and the sources images come from."""

from __future__ import annotations

from plugengine.images.store import ImageStore

__all__ = ["ImageStore"]
