"""Workloads that are done by the engine's and the driver's verbs: from a layer to a mount, and back."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from plugengine.bench.image import HOME, WORK
from plugengine.bench.results import HIGHER, LOWER
from plugengine.bench.workload import Workload
from plugengine.bench.workloads.content import FILE_BYTES, FILES_PER_DIRECTORY
from plugengine.bench.workloads.data import DataFile
from plugengine.containers import rootfs_view
from plugengine.errors import PlugengineError
from plugengine.images.layers.apply import apply_layer
from plugengine.images.layers.diff import diff_layer
from plugengine.kernel.pagecache import resident_bytes
from plugengine.model import HostPath
from plugengine.state import container_rows
from plugengine.state.names import new_id
from plugengine.trees.remove import remove_tree

if TYPE_CHECKING:
    from plugengine.bench.fixture import Stand
    from plugengine.bench.targets import Place

_GROUP: Final = "life cycle"
_SHARING: Final = "sharing"
_KIB: Final = 1024
_STAT_REFRESH: Final = "/proc/sys/vm/stat_refresh"
_LEAST: Final = 4096  # less than a page is nothing one could see


class _LifeCycle(Workload):
    """Done by verbs of the driver."""

    group = _GROUP
    limit = False


class UnpackLayer(Workload):
    """What follows a pull: the core unpacks the layer, and a driver that keeps images in a form of its own makes it."""

    name = "unpack-layer"
    title = "unpack a layer"
    sentence = "unpack a layer of {files:,} files of 4 KiB, until the driver has prepared the first container on it"
    group = _GROUP
    full: ClassVar[Mapping[str, int]] = {"files": 1_000}
    quick: ClassVar[Mapping[str, int]] = {"files": 200}

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Unpack beside the store; the plain directory is ready when it is unpacked."""
        content = _layer_tar(sizes["files"])
        work = HostPath(f"{stand.around.work}/layer-{new_id()}")
        shared = HostPath(f"{stand.around.work}/shared-{new_id()}")
        try:
            begin = time.perf_counter()
            apply_layer(io.BytesIO(content), work)
            made = None if stand.is_limit else stand.prepared((work,), shared=shared)
            elapsed = time.perf_counter() - begin
            if made is not None:
                made.remove()
                stand.driver.gc(stand.engine.site.host, stand.valid_ids, shared)
        finally:
            for path in (work, shared):
                with suppress(PlugengineError):
                    remove_tree(path)
        return elapsed


def _layer_tar(files: int) -> bytes:
    noise = Random(files)  # noqa: S311 - content that does not compress
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for number in range(files):
            if number % FILES_PER_DIRECTORY == 0:
                directory = tarfile.TarInfo(f"d{number // FILES_PER_DIRECTORY}")
                directory.type, directory.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(directory)
            member = tarfile.TarInfo(f"d{number // FILES_PER_DIRECTORY}/f{number}")
            member.size = FILE_BYTES
            archive.addfile(member, io.BytesIO(noise.randbytes(FILE_BYTES)))
    return memory.getvalue()


class Prepare(_LifeCycle):
    """The writable layer of a container on an image that is in use already."""

    name = "prepare"
    title = "prepare a container"
    sentence = "the driver's prepare for one more container of the image"

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:  # noqa: ARG002 - there is one of it
        """Prepare; one before has paid for what the driver does once per image."""
        stand.prepared_before()
        stand.settle()
        begin = time.perf_counter()
        made = stand.prepared(stand.chain)
        elapsed = time.perf_counter() - begin
        made.remove()
        return elapsed


class Mounting(_LifeCycle):
    """Mounting a chain, with the start of a server if there is one, and unmounting with its end."""

    deep = True
    layers: ClassVar[int] = 1

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:  # noqa: ARG002 - there is one of it
        """Mount in a namespace of its own and unmount."""
        made = stand.prepared(stand.deep_chain(self.layers))
        try:
            holder = made.hold()
            return holder.mounted_s + holder.release()
        finally:
            made.remove()


class MountOne(Mounting):
    """The shortest chain."""

    name = "mount-1"
    title = "mount, 1 layer"
    sentence = "mount a chain of 1 layer and unmount it, with the start and the end of a server if there is one"


class MountTwenty(Mounting):
    """A chain as images have it."""

    name = "mount-20"
    title = "mount, 20 layers"
    sentence = "mount a chain of 20 layers and unmount it, with the start and the end of a server if there is one"
    layers = 20


class MountMany(Mounting):
    """About the longest chain there is; docker's limit is 127."""

    name = "mount-120"
    title = "mount, 120 layers"
    sentence = "mount a chain of 120 layers and unmount it, with the start and the end of a server if there is one"
    layers = 120


DEEPEST: Final = MountMany.layers


class Diff(_LifeCycle):
    """What a commit writes."""

    name = "diff"
    title = "diff, commit"
    sentence = "write the layer of a container with {files:,} new and {files:,} changed files, and hash it"
    area = "diff"
    full: ClassVar[Mapping[str, int]] = {"files": 300}
    quick: ClassVar[Mapping[str, int]] = {"files": 50}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write the files that are changed."""
        for number in range(sizes["files"]):
            with open(f"{directory}/old{number}", "wb") as stream:
                stream.write(bytes(FILE_BYTES))

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Change a container that does not run, then derive its layer as the engine does."""
        engine = stand.engine
        row = container_rows.get(engine.site.state, engine.containers.create(stand.spec()).id)
        try:
            with rootfs_view.root_filesystem(engine.site, row, read_only=False) as root:
                _change(f"/proc/self/fd/{root}{HOME}/{self.area}", sizes["files"])
            stand.settle()
            begin = time.perf_counter()
            with rootfs_view.overlay_form(engine.site, row) as upper:
                diff_layer(upper.directory, user_map=upper.user_map)
            return time.perf_counter() - begin
        finally:
            engine.containers.remove(row.id, force=True)


def _change(directory: str, files: int) -> None:
    for number in range(files):
        for name, mode in (("old", "ab"), ("new", "wb")):
            with open(f"{directory}/{name}{number}", mode) as stream:
                stream.write(bytes(FILE_BYTES))


class Remove(_LifeCycle):
    """The end of a container that has written."""

    name = "remove"
    title = "remove a container"
    sentence = "the driver's remove of a container of the image that has written {files:,} files of 4 KiB"
    full: ClassVar[Mapping[str, int]] = {"files": 500}
    quick: ClassVar[Mapping[str, int]] = {"files": 100}

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Write, unmount, remove."""
        made = stand.prepared(stand.chain)
        try:
            holder = made.hold()
            try:
                _change(f"{holder.root}{WORK}", sizes["files"])
            finally:
                holder.release()
            stand.settle()
        except BaseException:
            made.remove()
            raise
        begin = time.perf_counter()
        made.remove()
        return time.perf_counter() - begin


class Memory(_LifeCycle):
    """What a mounted root filesystem costs while its container does nothing."""

    name = "memory"
    title = "memory per mount"
    sentence = "memory of a mounted root filesystem whose tree of {files:,} files was walked: a server's share and slab"
    unit = "B"
    area = "memory"
    full: ClassVar[Mapping[str, int]] = {"files": 500, "mounts": 16}
    quick: ClassVar[Mapping[str, int]] = {"files": 500, "mounts": 8}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write empty files."""
        for number in range(sizes["files"]):
            with open(f"{directory}/f{number}", "wb"):
                pass

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Mount several times, walk each, and see what is used."""
        layer = stand.around.areas[self.area]
        with ExitStack() as undo:
            made = []
            for _ in range(sizes["mounts"]):
                made.append(stand.prepared((layer,)))
                undo.callback(made[-1].remove)
            self._walk(layer)  # what is in memory of the layer itself is no mount's
            before, servers = slab_bytes(), []
            for each in made:
                holder = each.hold()
                undo.callback(holder.close)
                self._walk(holder.root)
                servers.append(holder.server_pid)
            used = max(_LEAST, slab_bytes() - before) + sum(server_bytes(pid) for pid in servers if pid)
            return used / sizes["mounts"]

    def _walk(self, root: HostPath) -> None:
        with os.scandir(f"{root}{HOME}/{self.area}") as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)


def slab_bytes() -> int:
    """Return the kernel's memory in slabs, of the whole machine; see proc_meminfo(5)."""
    with suppress(OSError), open(_STAT_REFRESH, encoding="ascii") as stream:
        stream.read()  # has each processor hand in its counts; see proc_sys_vm(5)
    return _kibibytes("/proc/meminfo", "Slab:")


def server_bytes(pid: int) -> int:
    """Return the proportional set size of a process; see proc_pid_smaps(5)."""
    return _kibibytes(f"/proc/{pid}/smaps_rollup", "Pss:")


def _kibibytes(path: str, name: str) -> int:
    with open(path, encoding="ascii") as stream:
        return next(int(line.split()[1]) * _KIB for line in stream if line.startswith(name))


class SharedRead(DataFile):
    """Reading in a second container what a first one has read."""

    name = "shared-read"
    title = "read what a neighbour has read"
    sentence = "read a file of {mebibytes} MiB in a second container after a first one of the same image has read it"
    group = _SHARING
    unit = "s"
    better = LOWER
    function = "read_shared"

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Read in the first, then in the second; for the plain directory both are the same."""
        first, second = stand.place(self.name), _other(stand)
        stand.drop_caches()
        first.run(self, sizes)
        return second.run(self, sizes)


class SharedPages(DataFile):
    """The page cache of an image, once or once for each container."""

    name = "shared-pages"
    title = "page cache shared with a neighbour"
    sentence = (
        "of a file of {mebibytes} MiB that another container has read: what is in memory for this one, see mincore(2)"
    )
    group = _SHARING
    unit = "%"
    better = HIGHER
    function = "read_shared"

    def take(self, stand: Stand, sizes: Mapping[str, int]) -> float:
        """Read in the first, look at the file of the second."""
        first, second = stand.place(self.name), _other(stand)
        stand.drop_caches()
        first.run(self, sizes)
        with second.open(f"{HOME}/{self.area}/data") as fd:
            there, size = resident_bytes(fd)
        return 100 * there / size


def _other(stand: Stand) -> Place:
    return stand.place("") if stand.is_limit else stand.second()
