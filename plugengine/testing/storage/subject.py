"""The storage driver under test with a place of its own: layers, containers, and what must be as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from plugengine.errors import PlugengineError
from plugengine.hookmarks import PROJECT
from plugengine.kernel.mountinfo import mounts_at_or_below, read_mountinfo
from plugengine.model import Capability, Host, HostPath, UserMap
from plugengine.plugins.drivers import StorageDriver, open_driver
from plugengine.plugins.registry import Registry
from plugengine.state.locations import Locations
from plugengine.testing.cases import expect
from plugengine.testing.storage import described, snapshot
from plugengine.testing.storage.container import Container
from plugengine.testing.storage.described import Items
from plugengine.trees.remove import remove_tree

# What has a later time was written by the case: layers are dated years back.
_RECENT_NS: Final = 3600 * 10**9


class Subject:
    """One case's use of a driver.

    Args:
        driver: Under test.
        host: Its roots are below `scratch`.
        scratch: Empty directory of this case, on the filesystem the driver is to be tested on.
        options: Given to the driver for every container.
    """

    def __init__(
        self, driver: StorageDriver, host: Host, scratch: HostPath, options: Mapping[str, str] | None = None
    ) -> None:
        self.driver = driver
        self.host = host
        self.scratch = scratch
        self.options = dict(options or {})
        self.locations = Locations(root=host.root, run_root=host.run_root)
        self._containers: list[Container] = []
        self._layers: dict[HostPath, list[tuple[object, ...]]] = {}
        self._count = 0
        self._problems: list[str] = []
        self.since_ns = time.time_ns() - _RECENT_NS

    def __enter__(self) -> Self:
        for path in (self.locations.layers, self.locations.containers, self.locations.run_containers):
            os.makedirs(path, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in reversed(self._containers):
            for undo in (container.unmount, container.remove):
                try:
                    undo()
                except (PlugengineError, OSError) as exc:
                    self._problems.append(f"{undo.__name__}: {exc}")
        with contextlib.suppress(PlugengineError):
            self.gc()

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims something."""
        return capability in self.driver.info.capabilities

    def other_drivers(self) -> list[StorageDriver]:
        """Return every other bundled storage driver that works below these roots.

        Strangers' are no measure: a driver under test would fail for the faults of whatever else is installed.
        """
        registry = Registry()
        found = []
        for entry in registry.entries(StorageDriver.group):
            if entry.name == self.driver.name or entry.distribution != PROJECT:
                continue
            try:
                other = open_driver(registry, StorageDriver.group, entry.name)
                if isinstance(other, StorageDriver) and not other.probe(self.host):
                    found.append(other)
            except PlugengineError:  # somebody else's fault
                continue
        return found

    def adopt(self, other: Subject) -> None:
        """Count what another subject of the same case finds left as found here."""
        self._problems += other.leaks()

    # --- layers ---

    def layer(self, *items: described.Item, below: Sequence[HostPath] = ()) -> HostPath:
        """Unpack a layer into the layer store, over the chain `below`."""
        return self.layer_of_tar(described.tar(items), below=below)

    def layer_of_tar(self, data: bytes, *, below: Sequence[HostPath] = ()) -> HostPath:
        """Unpack a layer tar into the layer store, over the chain `below`."""
        self._count += 1
        # As long as the engine's names: sixty-four digits.
        path = HostPath(f"{self.locations.layers}/{self._count:064x}")
        described.unpack_tar(data, path, tuple(below))
        self._layers[path] = _fingerprint(path)
        return path

    def chain(self, *layers: Items) -> tuple[HostPath, ...]:
        """Unpack one layer over the other and return the chain, lowest first."""
        paths: tuple[HostPath, ...] = ()
        for items in layers:
            paths = (*paths, self.layer(*items, below=paths))
        return paths

    def forget_layers(self) -> None:
        """Remove every layer, as the layer store does when its last image is removed."""
        for path in self._layers:
            remove_tree(path)
        self._layers.clear()

    def plain(self, *layers: Items) -> str:
        """Return a plain directory of the same filesystem with what these layers say."""
        self._count += 1
        root = f"{self.scratch}/plain-{self._count}"
        os.mkdir(root)
        os.chmod(root, 0o755)
        for items in layers:
            described.apply_plainly(items, root)
        return root

    # --- containers ---

    def container(
        self,
        chain: Sequence[HostPath] = (),
        *,
        options: Mapping[str, str] | None = None,
        user_map: UserMap | None = None,
        read_only: bool = False,
        ephemeral: bool = False,
        driver: StorageDriver | None = None,
    ) -> Container:
        """Return a container that is not prepared yet, by the driver under test or another."""
        container = Container(
            driver or self.driver,
            self.locations,
            uuid.uuid4().hex * 2,
            tuple(chain),
            options=self.options if driver is None and options is None else options or {},
            user_map=user_map,
            read_only=read_only,
            ephemeral=ephemeral,
            since_ns=self.since_ns,
        )
        self._containers.append(container)
        return container

    def mounted(
        self,
        chain: Sequence[HostPath] = (),
        *,
        options: Mapping[str, str] | None = None,
        user_map: UserMap | None = None,
        read_only: bool = False,
        ephemeral: bool = False,
        driver: StorageDriver | None = None,
    ) -> Container:
        """Return a container that is prepared and mounted."""
        container = self.container(
            chain, options=options, user_map=user_map, read_only=read_only, ephemeral=ephemeral, driver=driver
        )
        return container.prepare().mount()

    def gc(self, *valid: Container) -> tuple[str, ...]:
        """Have the driver remove what belongs to none of these containers."""
        ids = frozenset(container.id for container in valid)
        return self.driver.gc(self.host, ids, self.locations.shared_by(self.driver.name))

    def snapshot(self, root: str) -> dict[str, snapshot.Entry]:
        """Return what is below a directory; what was written by the case has no time of its own."""
        return snapshot.snapshot(root, since_ns=self.since_ns)

    def traces_of(self, container: Container) -> list[str]:
        """Return the paths, below root and run root, of what is named after a container or in its own directory."""
        own = container.request.directory
        found = [f"{own}/{name}" for name in (os.listdir(own) if os.path.isdir(own) else ())]
        for top in (self.host.root, self.host.run_root):
            for directory, names, files in os.walk(top):
                found += [
                    f"{directory}/{name}"
                    for name in (*names, *files)
                    if container.id in name and directory != self.locations.containers
                ]
        return found

    def expect_no_trace(self, container: Container, when: str) -> None:
        """Raise Failure if anything of a container is left or still mounted."""
        left = self.traces_of(container)
        expect(not left, f"{when}: left behind: {', '.join(left[:3])}")
        mounts = [
            entry.mount_point
            for place in (container.request.directory, container.request.target)
            for entry in mounts_at_or_below(read_mountinfo(), place)
        ]
        expect(not mounts, f"{when}: still mounted: {', '.join(mounts)}")

    def expect_layers_unchanged(self) -> None:
        """Raise Failure if anything in the layer store is not as it was made."""
        changed = self.changed_layers()
        expect(not changed, f"layers must never change: {'; '.join(changed[:3])}")

    def changed_layers(self) -> list[str]:
        """Return what changed about the layers, a line each."""
        lines = []
        for path, before in self._layers.items():
            now = _fingerprint(path)
            lines += [f"{row[0]} was changed in layer {path}" for row in now if row not in before]
            names = {row[0] for row in now}
            lines += [f"{row[0]} was removed from layer {path}" for row in before if row[0] not in names]
        return lines

    def leaks(self) -> list[str]:
        """Return what the driver left below the roots although all was undone, to be called after the context."""
        lines = list(self._problems)
        lines += [f"layer changed: {line}" for line in self.changed_layers()]
        for container in self._containers:
            lines += [f"left behind: {path}" for path in self.traces_of(container)]
        for container in self._containers:
            with contextlib.suppress(PlugengineError):
                remove_tree(self.locations.container(container.id))
        return lines


def _fingerprint(layer: HostPath) -> list[tuple[object, ...]]:
    """Return what changes whenever anything in a layer does: every inode with the time of its last change."""
    rows: list[tuple[object, ...]] = []
    for directory, names, files in os.walk(layer):
        for name in (".", *(each for each in names if os.path.islink(f"{directory}/{each}")), *files):
            path = f"{directory}/{name}"
            found = os.lstat(path)
            shown = os.path.relpath(path, layer)
            rows.append((shown, found.st_ino, found.st_ctime_ns, found.st_size, found.st_mode))
    return rows
