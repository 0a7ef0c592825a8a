"""What a workload works with: one column's driver, its containers, fresh where they must be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from plugengine.bench.held_mount import Holder
from plugengine.bench.image import AGENT, PLAIN
from plugengine.bench.machine import drop_caches
from plugengine.bench.prepared import Prepared
from plugengine.bench.targets import WAIT, ContainerPlace, DirectPlace, Place, inside
from plugengine.errors import DriverError, PlugengineError
from plugengine.kernel.files import syncfs
from plugengine.model import GuestPath, HostPath, Mount, Rootfs
from plugengine.plugins.drivers import StorageDriver
from plugengine.spec import ContainerSpec, Image, VolumeMount
from plugengine.state.names import new_id
from plugengine.trees.flatten import write_chain
from plugengine.trees.remove import remove_tree

if TYPE_CHECKING:
    from plugengine.bench.workload import Workload
    from plugengine.engine import Engine

_PATIENCE: Final = 3  # failures in a row to make a container, after which it is not tried any more
_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the columns of a run share."""

    engine: Engine
    work: HostPath  # a directory on the filesystem that is measured
    agent: HostPath  # the agent and the workloads' scripts
    scripts: Mapping[str, str]  # path of a script to its name there
    image: Image
    areas: Mapping[str, HostPath]  # the layer of each area
    deep: Image | None  # of many layers
    direct: bool
    host_driver: str  # in whose containers the plain directory is shown


class Stand:
    """One column.

    Args:
        around: What all columns share.
        driver: The storage driver; None: the plain directory.
        options: The driver's.
    """

    def __init__(
        self,
        around: Surroundings,
        driver: StorageDriver | None,
        *,
        options: Mapping[str, str],
    ) -> None:
        self.around = around
        self.engine: Engine = around.engine
        self._driver = driver
        self._options = options
        self.note = ""  # about the value taken last
        self._place: Place | None = None
        self._second: Place | None = None
        self._touched: set[str] = set()
        self._prepared: set[str] = set()
        self._used_before = False
        self._failures = 0
        self._last = ""

    # --- for workloads ---

    @property
    def driver(self) -> StorageDriver:
        """The storage driver.

        Raises:
            DriverError: It is the plain directory's turn, which has none.
        """
        if self._driver is None:
            raise DriverError("the plain directory has no driver")
        return self._driver

    @property
    def is_limit(self) -> bool:
        """Whether this is the plain directory."""
        return self._driver is None

    @property
    def chain(self) -> tuple[HostPath, ...]:
        """The layers of the image, lowest first."""
        return self.around.image.layers

    def deep_chain(self, count: int) -> tuple[HostPath, ...]:
        """Return a chain of so many layers."""
        if self.around.deep is None or count > len(self.around.deep.layers):
            raise DriverError(f"there is no image of {count} layers")
        return self.around.deep.layers[-count:]

    def place(self, name: str, *, untouched: bool = False) -> Place:
        """Return the column's container.

        Args:
            name: Of the workload.
            untouched: It will change files of the image. It gets a new container if it has done so in this one.
        """
        if self._place is not None and untouched and name in self._touched:
            self.discard()
        if self._place is None:
            self._place = self._make()
        if untouched:
            self._touched.add(name)
        return self._place

    def direct_place(self, name: str) -> DirectPlace:
        """Return the column's mount, where there are no containers."""
        place = self.place(name)
        if not isinstance(place, DirectPlace):
            raise DriverError("only on mounts without a container")
        return place

    def second(self) -> Place:
        """Return another container of the same image; for reading only."""
        if self._second is None:
            self._second = self._make()
        return self._second

    def prepared(self, chain: tuple[HostPath, ...], *, shared: HostPath | None = None) -> Prepared:
        """Have the driver prepare a root filesystem of its own."""
        made = Prepared(self.engine.site, self.driver, chain, options=self._options, shared=shared)
        self._prepared.add(made.request.container_id)
        return made

    @property
    def valid_ids(self) -> frozenset[str]:
        """The containers that this stand's driver must keep when it collects what is nobody's."""
        return frozenset(row.id for row in self.engine.containers.list(all=True)) | self._prepared

    def prepared_before(self) -> None:
        """See that the driver has done once what it does once for an image."""
        if not self._used_before:
            self.prepared(self.chain).remove()
            self._used_before = True

    def spec(self) -> ContainerSpec:
        """Return the description of a container of this driver that waits."""
        return self._spec(self.driver.name, self._options)

    def drop_caches(self) -> None:
        """Drop the kernel's caches, or note why that is not permitted."""
        refused = drop_caches()
        if refused:
            self.note = f"caches not dropped: {refused}"

    # --- for the run ---

    def take(self, workload: Workload, sizes: Mapping[str, int]) -> float:
        """Take one value; after a failure the next one gets a fresh container."""
        self.settle()
        try:
            return workload.take(self, sizes)
        except Exception:
            self.discard()
            raise

    def settle(self) -> None:
        """Write back what is dirty, so that nobody's value has to."""
        fd = os.open(self.around.work, _READ)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Remove the containers; trouble with that is nobody's value."""
        places = [place for place in (self._place, self._second) if place is not None]
        self._place = self._second = None
        self._touched.clear()
        for place in places:
            with suppress(PlugengineError, OSError):
                place.close()

    # --- places ---

    def _make(self) -> Place:
        if self._failures >= _PATIENCE:
            raise DriverError(f"not tried any more: {self._last}")
        try:
            made = self._direct() if self.around.direct else self._container()
        except Exception as exc:
            self._failures += 1
            self._last = str(exc)
            raise
        self._failures = 0
        return made

    def _container(self) -> Place:
        scripts = self.around.scripts
        if self._driver is not None:
            return ContainerPlace(self.engine, self.spec(), scripts)
        directory = self._plain()
        shown = VolumeMount(type="bind", source=directory, target=GuestPath(PLAIN))
        # A chroot has no /dev, and git wants this one.
        null = VolumeMount(type="bind", source="/dev/null", target=GuestPath(f"{PLAIN}/dev/null"))
        spec = self._spec(self.around.host_driver, {}, shown, null)
        return ContainerPlace(
            self.engine, spec, scripts, root=PLAIN, seen=directory, undo=partial(remove_tree, directory)
        )

    def _spec(self, driver: str, options: Mapping[str, str], *more: VolumeMount) -> ContainerSpec:
        agent = VolumeMount(type="bind", source=self.around.agent, target=GuestPath(AGENT), read_only=True)
        return ContainerSpec(
            image=self.around.image.names[0],
            command=WAIT,
            entrypoint=(),
            user="0",
            mounts=(agent, *more),
            storage=driver,
            storage_options=options,
            network="none",
            pull="never",
        )

    def _direct(self) -> Place:
        scripts = self.around.scripts
        if self._driver is not None:
            made = self.prepared(self.chain)
            return DirectPlace(
                lambda: made.hold(inside=inside(made.request.target, self.around.agent)), scripts, undo=made.remove
            )
        directory = self._plain()
        target = HostPath(f"{self.around.work}/shown-{new_id()}")
        rootfs = Rootfs(mounts=(Mount(fstype="bind", source=directory, target=target),))

        def hold() -> Holder:
            log = HostPath(f"{self.around.work}/no-server.log")
            return Holder(rootfs, target, log, inside=inside(target, self.around.agent))

        def undo() -> None:
            remove_tree(directory)
            remove_tree(target)

        return DirectPlace(hold, scripts, undo=undo)

    def _plain(self) -> HostPath:
        """Write the image out as a plain directory."""
        directory = HostPath(f"{self.around.work}/plain-{new_id()}")
        os.mkdir(directory)
        try:
            write_chain(self.chain, directory)
            with open(f"{directory}/dev/null", "ab"):  # to be mounted on
                pass
        except BaseException:
            remove_tree(directory)
            raise
        return directory
