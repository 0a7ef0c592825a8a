"""Where images come from when they are named: a scheme ("host:"), and the function that makes or fetches the image.

Bundled sources and those of plugins (hook `pe_image_sources`) go through one door. What a source is told and what it
may do is in docs/image-sources.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from plugengine.errors import DriverError, PlugengineError
from plugengine.hookmarks import PROJECT
from plugengine.spec import Image

if TYPE_CHECKING:
    from plugengine.images.store import ImageStore, Progress
    from plugengine.plugins.offers import Offer, Offers
    from plugengine.plugins.registry import Registry

DEFAULT: Final = ""  # the scheme of the one source that is asked for names without a scheme
BUNDLED: Mapping[str, str] = {
    "host": "plugengine.images.sources.host.image:resolve",
    "oci-archive": "plugengine.images.sources.archive_files:resolve",
    "docker-archive": "plugengine.images.sources.archive_files:resolve",
}


class Source(Protocol):
    """Makes or fetches the image a reference names; called in the process that asked for it."""

    def __call__(self, store: ImageStore, reference: str, *, pull: str, progress: Progress | None) -> Image:
        """Return the image, which is in the store by then.

        Args:
            store: Where to put it; safe for many processes at once.
            reference: As it was given, its scheme included.
            pull: "missing": what is in the store will do; "always": ask whether it is still that.
            progress: Called with what is worked on, bytes done and bytes in all (None: not known).
        """


class Sources:
    """The sources there are; plugins are asked for theirs when a name could be meant for one.

    Args:
        registry: The installed plugins, None: the bundled sources only.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry

    def scheme_of(self, reference: str) -> str | None:
        """Return the scheme a reference begins with, if some source has it."""
        word, colon, _ = reference.partition(":")
        if not colon or not word:
            return None
        known = word in BUNDLED or any(offer.name == word for offer in self._offers.found)
        return word if known else None

    def has_default(self) -> bool:
        """Tell whether names without a scheme can be asked for anywhere."""
        return any(offer.name == DEFAULT for offer in self._offers.found)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with plugins that may have had a source."""
        return self._offers.faults

    def resolve(
        self, scheme: str, store: ImageStore, reference: str, *, pull: str, progress: Progress | None = None
    ) -> Image:
        """Return the image that the source of this scheme makes or fetches.

        Raises:
            ConflictError: Several distributions offer the scheme.
            DriverLoadError: The source cannot be imported.
            DriverError: It failed otherwise than it may; the message names its distribution.
            PlugengineError: What the source says about the reference.
        """
        what = f"image source {scheme}:" if scheme else "default image source"
        offer = self._offers.find(what, scheme)
        if offer is None:
            raise LookupError(scheme)
        return _asked(offer, what, store, reference, pull=pull, progress=progress)

    @cached_property
    def _offers(self) -> Offers:
        from plugengine.plugins.offers import offers

        return offers(self._registry, "pe_image_sources", BUNDLED)


def _asked(
    offer: Offer, what: str, store: ImageStore, reference: str, *, pull: str, progress: Progress | None
) -> Image:
    source: Source = offer.load(what)
    try:
        found: Any = source(store, reference, pull=pull, progress=progress)
    except PlugengineError:
        raise
    except Exception as exc:
        if offer.source == PROJECT:
            raise
        raise DriverError(
            f"image {reference}: {what} of {offer.source}: {type(exc).__name__}: {exc}",
            hint=f"a fault of {offer.source.split()[0]}; --debug shows where",
        ) from exc
    if not isinstance(found, Image):
        raise DriverError(f"image {reference}: {what} of {offer.source}: returned {found!r}, not an Image")
    return found
