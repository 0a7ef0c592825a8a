"""`engine.volumes`: make, list and remove volumes."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plugengine.model import HostPath
from plugengine.site import Site

if TYPE_CHECKING:
    from plugengine.volumes import Volume


class Volumes:
    """The volumes of an engine."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def list(self) -> builtins.list[Volume]:
        """Return all volumes."""
        from plugengine import volumes

        return [*volumes.list_all(self._site.state)]

    def get(self, name: str) -> Volume:
        """Return a volume.

        Raises:
            NotFoundError: There is none of that name.
        """
        from plugengine import volumes

        return volumes.get(self._site.state, name)

    def directory(self, name: str) -> HostPath:
        """Return where the files of a volume are on the host."""
        return self._site.locations.volume_data(name)

    def create(self, name: str | None = None, *, labels: Mapping[str, str] | None = None) -> Volume:
        """Make a volume; without a name an anonymous one."""
        from plugengine import volumes

        return volumes.create(self._site.state, self._site.locations, name, labels=labels or {}, anonymous=name is None)

    def remove(self, name: str) -> None:
        """Remove a volume.

        Raises:
            ConflictError: A container uses it.
        """
        from plugengine import volumes

        volumes.remove(self._site.state, self._site.locations, name)
