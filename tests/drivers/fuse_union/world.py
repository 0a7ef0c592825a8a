"""A union in a place of its own: layers, an upper directory, and a mount by fuse_union or the kernel's overlayfs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import plugengine_fuse_union as driver
from msgspec.structs import replace

from plugengine.containers import file_server
from plugengine.containers.file_server import ServerProcess
from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from plugengine.model import HostPath, Server, StorageRequest, UserMap
from tests.drivers.options import values


class World:
    """Everything of one union lies below `base`; the mount is at `root`."""

    def __init__(
        self,
        base: Path,
        *,
        layers: int = 1,
        options: Mapping[str, str] | None = None,
        user_map: UserMap | None = None,
        read_only: bool = False,
        server: Mapping[str, int] | None = None,
    ) -> None:
        self.base = base
        self.layers = [base / f"l{number}" for number in range(layers)]  # lowest first
        self.root = base / "m"
        for path in (*self.layers, self.root, base / "s"):
            path.mkdir(parents=True)
        self.request = StorageRequest(
            container_id="c",
            chain=_chain(self.layers),
            directory=HostPath(str(base / "s")),
            target=HostPath(str(self.root)),
            options=values(driver.pe_storage_info(), options),
            user_map=user_map,
            read_only=read_only,
        )
        self.upper = base / "s" / "upper"
        self.server_config = server or {}
        self.log = base / "log"
        self.server: ServerProcess | None = None
        self._overlay = ""  # its mount options
        self._tmpfs = False

    def use_layers(self, layers: Sequence[Path]) -> None:
        """Be a union of these layers, lowest first, instead of its own."""
        self.layers = list(layers)
        self.request = replace(self.request, chain=_chain(self.layers))

    def use_upper(self, other: World) -> None:
        """Take the changes of another world for its own."""
        self.upper = other.upper
        self.request = replace(self.request, directory=other.request.directory)

    def mount(self) -> World:
        """Mount by fuse_union, as the engine does it."""
        record = driver.pe_storage_prepare(self.request)
        server = driver.pe_storage_mounts(self.request, record).server
        assert server is not None
        server = Server(entry=server.entry, config={**server.config, **self.server_config})
        self.server = file_server.start(server, log=HostPath(str(self.log)))
        self.server.wait_ready()
        return self

    def mount_overlay(self, options: str = "redirect_dir=on") -> World:
        """Mount the same directories by the kernel's overlayfs."""
        driver.pe_storage_prepare(self.request)
        lowers = ":".join(str(path) for path in reversed(self.layers))
        data = f"lowerdir={lowers},upperdir={self.upper},workdir={self.upper.parent}/work,{options}"
        mount("overlay", str(self.root), "overlay", 0, data)
        self._overlay = options
        return self

    def mount_storage_tmpfs(self, options: str) -> None:
        """Put the upper directory on a small filesystem of its own."""
        mount("tmpfs", str(self.base / "s"), "tmpfs", 0, options)
        self._tmpfs = True

    def close(self) -> None:
        """Unmount everything."""
        self.unmount()
        if self._tmpfs:
            umount2(str(self.base / "s"), MNT_DETACH)

    def unmount(self) -> None:
        """Unmount whatever is mounted."""
        if self.server is not None:
            self.server.end()
            self.server = None
        if self._overlay:
            umount2(str(self.root), MNT_DETACH)
            self._overlay = ""

    def remount(self) -> None:
        """Unmount and mount again, by the same driver."""
        options = self._overlay
        self.unmount()
        if options:
            self.mount_overlay(options)
        else:
            self.mount()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self.server is not None
        return self.server.pid

    @property
    def complaints(self) -> str:
        """What the server wrote to its log."""
        return self.log.read_text() if self.log.exists() else ""

    def in_upper(self, name: str) -> os.stat_result:
        """Stat an entry of the upper directory."""
        return os.lstat(self.upper / name)


def _chain(layers: Sequence[Path]) -> tuple[HostPath, ...]:
    return tuple(HostPath(str(path)) for path in layers)
