"""A root filesystem made by a storage driver's own verbs, without a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from plugengine.bench.held_mount import Holder
from plugengine.errors import PlugengineError
from plugengine.model import HostPath, Mount, Rootfs, StorageRequest
from plugengine.plugins.drivers import StorageDriver
from plugengine.site import Site
from plugengine.state.names import new_id
from plugengine.trees.remove import remove_tree


class Prepared:
    """What `prepare` made; to be removed.

    Args:
        site: The engine's roots.
        driver: The storage driver.
        chain: Layer directories, lowest first.
        options: The driver's.
        shared: What the driver keeps for several containers; None: the usual place.

    Raises:
        DriverError: The driver could not; nothing is left.
    """

    def __init__(
        self,
        site: Site,
        driver: StorageDriver,
        chain: tuple[HostPath, ...],
        *,
        options: Mapping[str, str],
        shared: HostPath | None = None,
    ) -> None:
        number = new_id()
        self._driver = driver
        self._home = site.locations.container(number)
        self._run = site.locations.run(number)
        self.log: HostPath = site.locations.server_log(number)
        self.request: StorageRequest = StorageRequest(
            container_id=number,
            chain=chain,
            directory=site.locations.storage(number, driver.name),
            target=site.locations.rootfs(number),
            shared=shared or site.locations.shared_by(driver.name),
            options=options,
        )
        os.makedirs(self.request.directory, 0o700)
        os.makedirs(self.request.target, 0o700)
        try:
            self.record = driver.prepare(self.request)
        except BaseException:
            self._sweep()
            raise

    def rootfs(self) -> Rootfs:
        """Ask the driver how it is mounted."""
        return self._driver.mounts(self.request, self.record)

    def hold(self, *, inside: tuple[Mount, ...] = ()) -> Holder:
        """Mount it."""
        return Holder(self.rootfs(), self.request.target, self.log, inside=inside)

    def remove(self) -> None:
        """Have the driver remove it, then what is the core's."""
        try:
            self._driver.remove(self.request, self.record)
        finally:
            self._sweep()

    def _sweep(self) -> None:
        for path in (self._home, self._run):
            with suppress(PlugengineError):
                remove_tree(path)
