"""`engine.images`: load, list, name and remove images."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from plugengine.site import Site
from plugengine.spec import Image

if TYPE_CHECKING:
    from typing import BinaryIO


class Images:
    """The images of an engine; a reference is a name, an id or the beginning of an id."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def load(
        self, source: str | BinaryIO, *, progress: Callable[[str, int, int | None], None] | None = None
    ) -> tuple[Image, ...]:
        """Load images from an archive (docker-archive or OCI, plain, gzip or zstd)."""
        return self._site.images.load(source, progress=progress)

    def import_rootfs(
        self,
        source: str | BinaryIO,
        name: str | None = None,
        *,
        changes: Iterable[str] = (),
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> Image:
        """Make a one-layer image from the tar of a root filesystem.

        Args:
            source: A path, or a binary file, which may be a pipe; gzip, zstd, bzip2, xz or plain.
            name: What to call it, None for nothing.
            changes: Instructions of a Dockerfile that set the config, such as 'CMD ["sh"]'.
            progress: Called with what is worked on, bytes done and bytes in all (None: not known).

        Raises:
            UsageError: A change or the name is not understood.
            ImageError: The tar is damaged or hostile.
        """
        from plugengine.build.config import parse_changes
        from plugengine.runtime.environment import DEFAULT_PATH

        config = parse_changes(tuple(changes), {"Env": [f"PATH={DEFAULT_PATH}"]})
        return self._site.images.import_rootfs(source, name, config=config, progress=progress)

    def list(self) -> builtins.list[Image]:
        """Return the images of the store, the newest first."""
        return self._site.images.list()

    def get(self, reference: str) -> Image:
        """Return one image.

        Raises:
            NotFoundError: There is none.
        """
        return self._site.images.get(reference)

    def config(self, reference: str) -> dict[str, Any]:
        """Return the whole config of an image as it is stored; see config.md of the OCI image-spec.

        Raises:
            NotFoundError: There is no such image.
        """
        return self._site.images.config(reference)

    def tag(self, source: str, target: str) -> None:
        """Give an image another name."""
        self._site.images.tag(source, target)

    def remove(self, reference: str, *, force: bool = False) -> builtins.list[str]:
        """Remove a name, and with its last name the image; return a line for each thing removed."""
        from plugengine.operations.inspect import containers_of
        from plugengine.operations.system_check import follow_removed_layers

        lines = self._site.images.remove(reference, force=force, in_use=lambda image: containers_of(self._site, image))
        follow_removed_layers(self._site)
        return lines
