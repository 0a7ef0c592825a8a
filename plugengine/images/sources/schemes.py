"""Where images come from when they are named: a scheme ("host:") and the function that makes or fetches the image.

A source is `function(store: ImageStore, reference: str) -> Image`; the reference includes the scheme. It is called
in the process that asked for the image, without a transaction, and must be safe when many processes ask at once:
build in `store.files.scratch()` and hand the result to `store.add_built` or `store.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from plugengine.errors import DriverLoadError

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore
    from plugengine.spec import Image

    Source: TypeAlias = Callable[["ImageStore", str], Image]

BUNDLED: Mapping[str, str] = {
    "host": "plugengine.images.sources.host.image:resolve",
    "oci-archive": "plugengine.images.sources.archive_files:resolve",
    "docker-archive": "plugengine.images.sources.archive_files:resolve",
}


def scheme_of(reference: str, sources: Mapping[str, str]) -> str | None:
    """Return the scheme a reference begins with, if it is one of the sources."""
    word, colon, _ = reference.partition(":")
    return word if colon and word in sources else None


def load_source(scheme: str, sources: Mapping[str, str]) -> Source:
    """Import the function of a source.

    Raises:
        DriverLoadError: It cannot be imported.
    """
    module, _, name = sources[scheme].partition(":")
    try:
        source: Source = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise DriverLoadError(f"image source {scheme}: import {sources[scheme]}: {exc}") from exc
    return source
