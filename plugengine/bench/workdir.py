"""Where a run works: a directory with enough space, namespaces of its own, and nothing left of either at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from msgspec.structs import replace

from plugengine.bench.isolation import measure_apart
from plugengine.bench.machine import noise
from plugengine.bench.results import Run
from plugengine.bench.rounds import Progress
from plugengine.cgroups import filesystem as cgroupfs
from plugengine.errors import DriverError, NoSpaceError, NotSupportedError, PlugengineError, UsageError
from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.model import HostPath, Mount
from plugengine.mounts import perform
from plugengine.plugins.drivers import CgroupDriver, open_driver
from plugengine.plugins.registry import Registry
from plugengine.testing.case_directory import DEFAULT_DIRECTORY, loop_filesystem, prepared
from plugengine.testing.loading import host_below

PEERS_PARENT: Final = "plugengine-bench"  # control group of the peers' containers, below each hierarchy's root
OWN_PARENT: Final = "plugengine"
_BUSY_S: Final = 5.0  # until the kernel has let go of the groups of killed processes
_DISK_BYTES: Final = 24 << 30  # of a filesystem made for the run; sparse
_MEGABYTE: Final = 1_000_000


def run_below(
    directory: str | None, needs_bytes: int, act: Callable[[HostPath, Progress], Run], *, progress: Progress
) -> Run:
    """Make a directory, call a function with it in namespaces of its own, remove what it made, return its run.

    The signs of noise are added to the warnings of the run.

    Args:
        directory: Where to make it; None: /var/tmp.
        needs_bytes: Free space it needs there.
        act: Measures; engines have their roots below the directory it gets.
        progress: Told how far it is.

    Raises:
        NoSpaceError: There is less space.
        PlugengineError: What the function raised.
        KeyboardInterrupt: It was interrupted before there was a result.
    """
    if os.geteuid() != 0:
        raise NotSupportedError("bench: needs root", hint="run it as root, for example with sudo")
    check_space(directory or DEFAULT_DIRECTORY, needs_bytes)
    place = HostPath(os.path.realpath(directory)) if directory else None
    with ExitStack() as undo:
        ground = undo.enter_context(prepared(place, None, private_network=False))
        undo.callback(_remove_groups, ground.directory)
        run = measure_apart(lambda report: act(ground.directory, report), progress=progress)
        return replace(run, warnings=(*run.warnings, *noise(run)))


def check_space(directory: str, needs_bytes: int) -> None:
    """Raise NoSpaceError unless so much is free there; UsageError if there is no such directory."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as exc:
        raise UsageError(f"--directory {directory}: {str(exc.strerror).lower()}") from exc
    if free < needs_bytes:
        raise NoSpaceError(
            f"bench in {directory}: {free // _MEGABYTE:,} MB free, the run needs {needs_bytes // _MEGABYTE:,} MB",
            hint="choose another place with --directory, or fewer drivers",
        )


@contextmanager
def on_filesystem(work: HostPath, filesystem: str | None) -> Iterator[HostPath]:
    """Give the directory to measure in, on a filesystem of its own if one is asked for."""
    disk = HostPath(f"{work}/disk")
    os.mkdir(disk)
    os.chmod(disk, 0o711)  # noqa: S103 - mapped users of containers must get through
    if filesystem is None:
        yield disk
        return
    with loop_filesystem(filesystem, HostPath(f"{work}/image"), _DISK_BYTES) as device:
        perform(Mount(fstype=filesystem, source=device, target=disk))
        try:
            yield disk
        finally:
            umount2(disk, MNT_DETACH)


def peers_parent(work: HostPath) -> str:
    """Return the control group that peers put their containers in."""
    return f"/{PEERS_PARENT}/{os.path.basename(work)}"


def _remove_groups(work: HostPath) -> None:
    """Remove the control groups of a run, whose processes the kernel has killed by now."""
    registry = Registry()
    host = host_below(work)
    for name in registry.names("cgroup"):
        try:
            driver = open_driver(registry, "cgroup", name)
            if isinstance(driver, CgroupDriver) and not driver.probe(host):
                driver.gc(host, OWN_PARENT, frozenset())
        except PlugengineError:
            continue  # a third party's driver must not keep the rest from being removed
    for hierarchy in cgroupfs.hierarchies():
        group = f"{hierarchy.mount_point}{peers_parent(work)}"
        if os.path.isdir(group):
            with suppress(DriverError, OSError):
                cgroupfs.remove(group, timeout_s=_BUSY_S)
            with suppress(OSError):  # another run's groups are there too
                os.rmdir(os.path.dirname(group))
