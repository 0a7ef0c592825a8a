"""Storage drivers that are wrong on purpose: each is a good one with one thing spoilt."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from typing import Any

import plugengine_fuse_union
import plugengine_overlay
import plugengine_vfs
from msgspec.structs import replace

from plugengine.errors import DriverError, NoSpaceError
from plugengine.hookspecs import hookimpl
from plugengine.model import (
    Capability,
    DriverInfo,
    Host,
    HostPath,
    Mount,
    Option,
    Record,
    Rootfs,
    StorageRequest,
    Upper,
    Usage,
)
from plugengine.trees.flatten import write_chain
from plugengine.trees.remove import remove_tree

SIZE = Option(name="size", default="", help="most that the container's changes may take")


class Good:
    """A bundled driver, unspoilt, whose verbs a subclass can spoil."""

    module: Any = plugengine_overlay
    claims: frozenset[Capability] = frozenset()
    options: tuple[Option, ...] = ()

    @hookimpl
    def pe_storage_info(self) -> DriverInfo:
        info: DriverInfo = self.module.pe_storage_info()
        return replace(info, capabilities=info.capabilities | self.claims, options=(*info.options, *self.options))

    @hookimpl
    def pe_storage_probe(self, host: Host) -> Iterable[str]:
        reasons: Iterable[str] = self.module.pe_storage_probe(host)
        return reasons

    @hookimpl
    def pe_storage_prepare(self, request: StorageRequest) -> Record:
        return self.prepare(request)

    @hookimpl
    def pe_storage_mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        return self.mounts(request, record)

    @hookimpl
    def pe_storage_upper(self, request: StorageRequest, record: Record) -> Upper:
        return self.upper(request, record)

    @hookimpl
    def pe_storage_usage(self, request: StorageRequest, record: Record) -> Usage:
        return self.usage(request, record)

    @hookimpl
    def pe_storage_remove(self, request: StorageRequest, record: Record | None) -> None:
        self.remove(request, record)

    @hookimpl
    def pe_storage_gc(self, host: Host, valid_ids: frozenset[str]) -> Iterable[str]:
        return self.gc(host, valid_ids)

    def prepare(self, request: StorageRequest) -> Record:
        record: Record = self.module.pe_storage_prepare(request)
        return record

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        rootfs: Rootfs = self.module.pe_storage_mounts(request, record)
        return rootfs

    def upper(self, request: StorageRequest, record: Record) -> Upper:
        upper: Upper = self.module.pe_storage_upper(request, record)
        return upper

    def usage(self, request: StorageRequest, record: Record) -> Usage:
        usage: Usage = self.module.pe_storage_usage(request, record)
        return usage

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        self.module.pe_storage_remove(request, record)

    def gc(self, host: Host, valid_ids: frozenset[str]) -> Iterable[str]:
        return ()


class GoodCopy(Good):
    module = plugengine_vfs


class GoodServer(Good):
    module = plugengine_fuse_union


# --- what it shows -----------------------------------------------------------------------------------------


class SpoilsCopies(GoodCopy):
    """Does something to every file of a new container's copy of the image."""

    def prepare(self, request: StorageRequest) -> Record:
        record = super().prepare(request)
        root = f"{request.directory}/root"
        for directory, names, files in list(os.walk(root)):
            for name in (*names, *files):
                self.spoil(f"{directory}/{name}")
        self.spoil_tree(root, request)
        return record

    def spoil(self, path: str) -> None:
        """Spoil one entry."""

    def spoil_tree(self, root: str, request: StorageRequest) -> None:
        """Spoil the whole."""


class ForgetsWhiteouts(SpoilsCopies):
    def spoil_tree(self, root: str, request: StorageRequest) -> None:
        for layer in request.chain:
            for directory, _names, files in os.walk(layer):
                for name in files:
                    found = os.lstat(f"{directory}/{name}")
                    shown = f"{root}/{os.path.relpath(directory, layer)}/{name}"
                    if stat.S_ISCHR(found.st_mode) and not found.st_rdev and not os.path.lexists(shown):
                        with suppress(OSError), open(shown, "wb"):
                            pass


class LosesAttributes(SpoilsCopies):
    def spoil(self, path: str) -> None:
        for name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)


class LosesOwners(SpoilsCopies):
    def spoil(self, path: str) -> None:
        os.chown(path, 0, 0, follow_symlinks=False)


class LosesSetId(SpoilsCopies):
    def spoil(self, path: str) -> None:
        if not os.path.islink(path):
            os.chmod(path, os.lstat(path).st_mode & 0o1777)


class DatesEverythingNow(SpoilsCopies):
    def spoil(self, path: str) -> None:
        os.utime(path, follow_symlinks=False)


class CutsNanoseconds(SpoilsCopies):
    def spoil(self, path: str) -> None:
        second = int(os.lstat(path).st_mtime_ns // 10**9)
        os.utime(path, (second, second), follow_symlinks=False)


class BreaksHardLinks(SpoilsCopies):
    def spoil(self, path: str) -> None:
        if os.lstat(path).st_nlink > 1 and os.path.isfile(path):
            shutil.copy2(path, f"{path}.copy")
            os.replace(f"{path}.copy", path)


class DropsTheSecondLayer(GoodCopy):
    def prepare(self, request: StorageRequest) -> Record:
        return super().prepare(replace(request, chain=request.chain[:1] + request.chain[2:]))


class IgnoresReadOnly(Good):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        return super().mounts(replace(request, read_only=False), record)


class IgnoresUserMap(Good):
    def prepare(self, request: StorageRequest) -> Record:
        return super().prepare(replace(request, user_map=None))

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        return super().mounts(replace(request, user_map=None), record)


# --- where it keeps things ---------------------------------------------------------------------------------


class Elsewhere(Good):
    """Keeps the writable layer somewhere else than in the container's directory."""

    def place(self, request: StorageRequest) -> str:
        raise NotImplementedError

    def moved(self, request: StorageRequest) -> StorageRequest:
        directory = self.place(request)
        os.makedirs(directory, exist_ok=True)
        return replace(request, directory=HostPath(directory))

    def prepare(self, request: StorageRequest) -> Record:
        return super().prepare(self.moved(request))

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        return super().mounts(self.moved(request), record)

    def usage(self, request: StorageRequest, record: Record) -> Usage:
        return super().usage(self.moved(request), record)

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        remove_tree(self.place(request))


class SharesCopies(Elsewhere):
    module = plugengine_vfs

    def place(self, request: StorageRequest) -> str:
        return f"{request.shared}/{sha256(''.join(request.chain).encode()).hexdigest()[:20]}"


class KeepsAllInTheRunDirectory(Elsewhere):
    def place(self, request: StorageRequest) -> str:
        return f"{os.path.dirname(request.target)}/storage"


class KeepsTheWayInTheRunDirectory(Good):
    """Prepares, and writes what it needs later where a reboot loses it."""

    def _note(self, request: StorageRequest) -> str:
        return f"{os.path.dirname(request.target)}/note"

    def prepare(self, request: StorageRequest) -> Record:
        record = super().prepare(request)
        os.makedirs(os.path.dirname(request.target), exist_ok=True)
        with open(self._note(request), "w", encoding="utf-8") as stream:
            stream.write("prepared")
        return record

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        if record is not None and not os.path.exists(self._note(request)) and os.path.isdir(request.directory):
            raise DriverError(f"remove {request.container_id}: not known here")
        super().remove(request, record)


class WritesIntoLayers(GoodCopy):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        return Rootfs(mounts=(Mount(fstype="bind", source=request.chain[0], target=request.target),))


class NotesInLayers(Good):
    def prepare(self, request: StorageRequest) -> Record:
        for layer in request.chain:
            os.setxattr(layer, "trusted.in-use", request.container_id.encode())
        return super().prepare(request)


# --- making and unmaking -----------------------------------------------------------------------------------


class LeavesHalfMade(Good):
    def prepare(self, request: StorageRequest) -> Record:
        os.mkdir(f"{request.directory}/begun")
        record = super().prepare(request)
        os.rmdir(f"{request.directory}/begun")
        return record


class TrustsTheHalfMade(GoodCopy):
    """Takes a copy that is there for a whole one, also when its making was interrupted."""

    def prepare(self, request: StorageRequest) -> Record:
        root = f"{request.directory}/root"
        if not os.path.isdir(root):
            os.mkdir(root)
            write_chain(request.chain, root)
        return {"owners": "mount"}


class RemovesOnlyOnce(Good):
    def remove(self, request: StorageRequest, record: Record | None) -> None:
        if not os.path.isdir(f"{request.directory}/upper"):
            raise DriverError(f"remove {request.container_id}: not there")
        super().remove(request, record)


class NeedsTheRecord(Good):
    def remove(self, request: StorageRequest, record: Record | None) -> None:
        if record is not None:
            super().remove(request, record)


class RemovesNothing(Good):
    def remove(self, request: StorageRequest, record: Record | None) -> None:
        """Leave it to somebody else."""


class RemovesByHand(GoodCopy):
    """Empties directories that links in the container lead to, if they are the kit's own."""

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        root = f"{request.directory}/root"
        scratch = os.path.realpath(f"{request.shared}/../../..")
        for name in os.listdir(root) if os.path.isdir(root) else ():
            target = os.path.realpath(f"{root}/{name}")
            if os.path.islink(f"{root}/{name}") and os.path.dirname(target) == scratch and os.path.isdir(target):
                for found in os.listdir(target):
                    os.unlink(f"{target}/{found}")
        super().remove(request, record)


class CollectsValidOnes(Good):
    def gc(self, host: Host, valid_ids: frozenset[str]) -> Iterable[str]:
        for name in os.listdir(f"{host.root}/containers"):
            remove_tree(f"{host.root}/containers/{name}")
            yield name


class CollectsNothing(Elsewhere):
    def place(self, request: StorageRequest) -> str:
        return f"{request.shared}/{request.container_id}"


class RecordIsNoJson(Good):
    def prepare(self, request: StorageRequest) -> Record:
        return {**super().prepare(request), "directory": request.directory.encode()}


class RemembersInTheProcess(Good):
    """Needs to be the process that prepared."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def prepare(self, request: StorageRequest) -> Record:
        self._known.add(request.container_id)
        return super().prepare(request)

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        if record and request.container_id not in self._known:
            raise DriverError(f"mounts of {request.container_id}: not prepared")
        return super().mounts(request, record)


class MountsMakeSomething(Good):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        with open(f"{request.directory}/mounted", "a", encoding="utf-8") as stream:
            stream.write("once more\n")
        return super().mounts(request, record)


class MountsDiffer(Good):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        rootfs = super().mounts(request, record)
        return replace(rootfs, mounts=tuple(replace(mount, source=str(time.time_ns())) for mount in rootfs.mounts))


class LeaksDescriptors(Good):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        os.open("/", os.O_PATH | os.O_CLOEXEC)
        return super().mounts(request, record)


class ServerDies(GoodServer):
    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        rootfs = super().mounts(request, record)
        assert rootfs.server is not None
        return replace(rootfs, server=replace(rootfs.server, entry=f"{__name__}:serve_for_a_moment"))


def serve_for_a_moment(config: Record, ready: Callable[[], None]) -> int:
    """Serve, and die as soon as the mount can be used."""
    from plugengine_fuse_union.server import serve

    def ready_to_die() -> None:
        ready()
        threading.Timer(0.001, os._exit, (3,)).start()

    return serve(config, ready_to_die)


# --- what it claims ----------------------------------------------------------------------------------------


class LiesAboutQuota(GoodCopy):
    claims = frozenset({Capability.QUOTA})
    options = (SIZE,)


class LiesAboutDiff(GoodCopy):
    """Claims native diff, and has no more to show than an empty directory."""

    claims = frozenset({Capability.NATIVE_DIFF})

    def upper(self, request: StorageRequest, record: Record) -> Upper:
        os.makedirs(f"{request.directory}/empty", exist_ok=True)
        return Upper(directory=HostPath(f"{request.directory}/empty"))

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        remove_tree(f"{request.directory}/empty")
        super().remove(request, record)


class UpperChanges(Good):
    _count = itertools.count()

    def upper(self, request: StorageRequest, record: Record) -> Upper:
        found = super().upper(request, record)
        os.utime(found.directory, ns=(0, next(self._count)))
        return found


class UpperLosesWhiteouts(Good):
    def upper(self, request: StorageRequest, record: Record) -> Upper:
        upper = super().upper(request, record)
        for directory, _names, files in os.walk(upper.directory):
            for name in files:
                found = os.lstat(f"{directory}/{name}")
                if stat.S_ISCHR(found.st_mode) and not found.st_rdev:
                    os.unlink(f"{directory}/{name}")
        return upper


class SaysOwnersAreInside(Good):
    def upper(self, request: StorageRequest, record: Record) -> Upper:
        return replace(super().upper(request, record), user_map=None)


class CountsLayers(Good):
    def usage(self, request: StorageRequest, record: Record) -> Usage:
        from plugengine.trees.upper import usage

        found = super().usage(request, record)
        return replace(found, size_bytes=found.size_bytes + sum(usage(layer).size_bytes for layer in request.chain))


class CountsNothing(Good):
    def usage(self, request: StorageRequest, record: Record) -> Usage:
        return Usage(size_bytes=4096, inodes=1)


class HidesWhyItFailed(GoodCopy):
    def prepare(self, request: StorageRequest) -> Record:
        try:
            return super().prepare(request)
        except NoSpaceError as exc:
            raise DriverError(f"prepare {request.container_id}: something went wrong") from exc


class RacesForTheChain(GoodCopy):
    """Writes each chain out once for all containers, and lets nobody wait until it is whole."""

    def prepare(self, request: StorageRequest) -> Record:
        base = f"{request.shared}/{sha256(''.join(request.chain).encode()).hexdigest()[:20]}"
        if not os.path.isdir(base):
            os.makedirs(base)
            time.sleep(0.05)
            write_chain(request.chain, base)
        return super().prepare(replace(request, chain=(HostPath(base),)))
