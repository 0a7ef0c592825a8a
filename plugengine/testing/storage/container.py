"""One container's storage by one driver, brought about by the engine's own steps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Self, cast

from plugengine.containers.steps import Live, Runner
from plugengine.containers.storage_steps import ShiftOwnersStep, rootfs_steps
from plugengine.images.layers.diff import diff_layer
from plugengine.model import Capability, Change, HostPath, StorageRequest, Usage, UserMap
from plugengine.plugins.drivers import DriverSet, StorageDriver
from plugengine.site import Site
from plugengine.state.locations import Locations
from plugengine.testing.cases import fail
from plugengine.testing.storage.snapshot import Entry, snapshot
from plugengine.trees.remove import remove_tree
from plugengine.trees.upper import changes as upper_changes


class Container:
    """A container as far as its root filesystem goes; made by `Subject.container`."""

    def __init__(
        self,
        driver: StorageDriver,
        locations: Locations,
        container_id: str,
        chain: tuple[HostPath, ...],
        *,
        options: Mapping[str, str],
        user_map: UserMap | None,
        read_only: bool,
        ephemeral: bool,
        since_ns: int,
    ) -> None:
        self.driver = driver
        self.id = container_id
        self.record: dict[str, Any] | None = None
        self._locations = locations
        self._since_ns = since_ns
        self._runner: Runner | None = None
        self.problems: list[str] = []  # of unmounting
        self._live: Live | None = None
        self._started = False
        self.request = StorageRequest(
            container_id=container_id,
            chain=chain,
            directory=locations.storage(container_id, driver.name),
            target=locations.rootfs(container_id),
            shared=locations.shared_by(driver.name),
            options=options,
            user_map=user_map,
            read_only=read_only,
            ephemeral=ephemeral,
        )

    @property
    def root(self) -> str:
        """Where the root filesystem is while it is mounted."""
        return self.request.target

    def path(self, name: str) -> str:
        """Return a path below the root."""
        return f"{self.root}/{name}"

    def make_directory(self) -> None:
        """Make the driver's directory, as the core does before `prepare`."""
        os.makedirs(self._locations.container(self.id), 0o710, exist_ok=True)
        os.makedirs(self.request.directory, 0o700, exist_ok=True)

    def prepare(self) -> Self:
        """Make the writable layer; the record goes through JSON, as it does on its way to the state database."""
        self.make_directory()
        self.record = self.as_json(self.driver.prepare(self.request))
        return self

    @staticmethod
    def as_json(record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it comes back from the state database."""
        try:
            text = json.dumps(dict(record))
        except (TypeError, ValueError) as exc:
            fail(f"the record of prepare is no JSON: {exc}")
        found: dict[str, Any] = json.loads(text)
        return found

    def mount(self, *, meanwhile: Callable[[], object] | None = None) -> Self:
        """Bring about the root filesystem as a container's monitor does; `meanwhile` runs before the server is ready.

        Raises:
            PlugengineError: All of it was undone.
        """
        rootfs = self.driver.mounts(self.request, self.record or {})
        os.makedirs(self.root, exist_ok=True)
        mounts, ready = rootfs_steps(rootfs, self._locations.server_log(self.id))
        shows_mapped = Capability.USER_MAP in self.driver.info.capabilities
        if self.request.user_map is not None and not shows_mapped and not self._started:
            ready.append(ShiftOwnersStep(self.request.target, self.request.user_map))
        # These steps need nothing else of the engine.
        self._live = Live(cast("Site", None), cast("DriverSet", None), log=lambda _line: None)
        self._runner = Runner(self._live)
        self._runner.run(mounts)
        if meanwhile is not None:
            meanwhile()
        self._runner.run(ready)
        self._started = True
        return self

    def unmount(self) -> None:
        """Take the root filesystem away; what is gone already is fine."""
        if self._runner is not None:
            self.problems += self._runner.unwind()
            self._runner = None
            self._live = None

    def remount(self) -> None:
        """Unmount and mount again, as a stop and a start do."""
        self.unmount()
        self.mount()

    def lose_run_directory(self) -> None:
        """Do what a reboot does to the run directory; nothing may be mounted."""
        shutil.rmtree(self._locations.run(self.id), ignore_errors=True)

    def remove(self) -> None:
        """Have the driver remove all; the core's own directory stays."""
        self.driver.remove(self.request, self.record)

    def remove_directory(self) -> None:
        """Remove the container's directory, as the core does in the end."""
        remove_tree(self._locations.container(self.id))

    @property
    def server_pid(self) -> int | None:
        """The file server's process; None: there is none."""
        server = self._live.server if self._live is not None else None
        return server.pid if server is not None else None

    @property
    def server_log(self) -> str:
        """What the file server wrote to its standard error."""
        try:
            with open(self._locations.server_log(self.id), encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def snapshot(self, *, exact: bool = False) -> dict[str, Entry]:
        """Return the tree that is mounted; `exact` with the times also of what the case wrote."""
        return snapshot(self.root, since_ns=None if exact else self._since_ns)

    def usage(self) -> Usage:
        """Return the space the driver says."""
        return self.driver.usage(self.request, self.record or {})

    def changes(self) -> list[Change]:
        """Return what has changed, by the driver's upper directory."""
        upper = self.driver.upper(self.request, self.record or {})
        return list(upper_changes(upper.directory, self.request.chain, upper.user_map))

    def diff(self) -> tuple[str, bytes]:
        """Return the digest and the tar of the layer that holds the changes, written by the core's own code."""
        upper = self.driver.upper(self.request, self.record or {})
        out = BytesIO()
        digest, _size = diff_layer(upper.directory, out, user_map=upper.user_map)
        return digest, out.getvalue()
