"""The library's door: everything the command line does is one typed method of a collection of `Engine`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from plugengine.engine.containers import Containers
from plugengine.errors import NotSupportedError, StateError
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.database import is_damage
from plugengine.state.locations import Locations

if TYPE_CHECKING:
    from plugengine.engine.images import Images
    from plugengine.engine.networks import Networks
    from plugengine.engine.system import Drivers, System
    from plugengine.engine.volumes import Volumes


class Engine:
    """A container engine on one pair of roots.

    Args:
        root: Persistent state; default: PLUGENGINE_ROOT, else /var/lib/plugengine.
        run_root: State a reboot ends; default: PLUGENGINE_RUN_ROOT, else /run/plugengine.
        environ: Where the variables are read from.
        short_lived: This process ends with its last command, so that a monitor may be its direct child, which saves
            two milliseconds; in a process that lives on such children would stay as zombies.
        expect_start: A container will be started at once: its monitor is forked ahead, to settle meanwhile.
        recover: Recover containers whose owner was killed. It is done by processes of their own; this one waits for
            them a moment and no longer, see `notices`.

    One object may be used by one thread at a time; many processes may work on the same roots.

    Attributes:
        notices: What a caller should know of containers that were not recovered, or not yet; usually nothing.

    Raises:
        NotSupportedError: Not run by root.
        StateError: A root is unusable.
    """

    def __init__(
        self,
        root: str | None = None,
        run_root: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        short_lived: bool = False,
        recover: bool = True,
        expect_start: bool = False,
    ) -> None:
        if os.geteuid() != 0:
            raise NotSupportedError("engine: needs root", hint="run it as root, for example with sudo")
        environ = os.environ if environ is None else environ
        locations = Locations.from_environment(environ, root=root, run_root=run_root)
        locations.ensure()
        self.site: Site = Site(locations, environ=environ, short_lived=short_lived)
        if expect_start:
            from plugengine.monitor.spare import fork_spare

            self.site.spare = fork_spare(self.site)
        self.notices: tuple[str, ...] = ()
        if recover:
            self._recover()

    @cached_property
    def containers(self) -> Containers:
        """Make, run, look at and remove containers."""
        return Containers(self.site)

    @cached_property
    def images(self) -> Images:
        """Load, list, name and remove images."""
        from plugengine.engine.images import Images

        return Images(self.site)

    @cached_property
    def volumes(self) -> Volumes:
        """Make, list and remove volumes."""
        from plugengine.engine.volumes import Volumes

        return Volumes(self.site)

    @cached_property
    def networks(self) -> Networks:
        """Make, list, look at and remove networks."""
        from plugengine.engine.networks import Networks

        return Networks(self.site)

    @cached_property
    def drivers(self) -> Drivers:
        """List the drivers that are installed."""
        from plugengine.engine.system import Drivers

        return Drivers(self.site)

    @cached_property
    def system(self) -> System:
        """Check and reset the engine as a whole."""
        from plugengine.engine.system import System

        return System(self.site)

    def close(self) -> None:
        """Close the state database; running containers are not touched."""
        self.site.drop_spare()
        self.site.state.close()

    def __enter__(self) -> Engine:
        """Return itself."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close."""
        self.close()

    def _recover(self) -> None:
        try:
            left = container_rows.abandoned(self.site.state)
        except StateError as exc:
            if not is_damage(exc):
                raise
            return  # every command will say the same, but for the one that repairs it
        if left:
            from plugengine.operations.lifecycle import recover_in_background

            self.notices = recover_in_background(self.site, left)
