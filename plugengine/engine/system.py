"""`engine.drivers` and `engine.system`: what is installed, and the health of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.plugins.probing import DriverStatus, status
from plugengine.site import Site
from plugengine.spec import DriverChoice

if TYPE_CHECKING:
    from plugengine.operations.recovery import Finding


class Drivers:
    """The drivers that are installed."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def list(self) -> tuple[DriverStatus, ...]:
        """Return every installed driver of every kind, supported or with the reasons why not."""
        return status(self._site.registry, self._site.host, self._site.configured)

    def missing(self, chosen: DriverChoice) -> tuple[str, ...]:
        """Return those of a container's drivers that are not installed any more, as "storage driver NAME"."""
        return self._site.missing(chosen)


class System:
    """The engine as a whole."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def check(self, *, repair: bool = False) -> list[Finding]:
        """Return what killed processes or a crash left behind; with repair, remove or restore it."""
        from plugengine.operations.system_check import check

        return check(self._site, repair=repair)

    def reset(self) -> None:
        """Stop and remove everything: containers, networks, images, volumes."""
        from plugengine.operations.system_check import reset

        reset(self._site)
