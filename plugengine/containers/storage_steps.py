"""The steps that bring a container's root filesystem about: mounts, a file server, owners, new volumes."""

from __future__ import annotations

import os

from msgspec import Struct

from plugengine import mounts as mounting
from plugengine.containers import file_server
from plugengine.containers.steps import Live, Step
from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.model import GuestPath, HostPath, Mount, Rootfs, Server, UserMap


def rootfs_steps(rootfs: Rootfs, server_log: HostPath) -> tuple[list[Step], list[Step]]:
    """Return the steps that mount a root filesystem, and those after which it can be used."""
    mounts: list[Step] = [MountStep(mount) for mount in rootfs.mounts]
    ready: list[Step] = []
    if rootfs.server is not None:
        mounts.append(ServerStep(rootfs.server, server_log))
        ready.append(ServerReadyStep(str(rootfs.server.config["target"])))
    return mounts, ready


class MountStep(Struct, frozen=True):
    """One mount of the root filesystem."""

    mount: Mount

    def describe(self) -> str:
        """Name the filesystem and the mount point."""
        return f"mount {self.mount.fstype} {self.mount.source} on {self.mount.target}"

    def do(self, live: Live) -> None:  # noqa: ARG002
        """Mount."""
        os.makedirs(self.mount.target, exist_ok=True)
        mounting.perform(self.mount)

    def undo(self, live: Live) -> None:  # noqa: ARG002
        """Unmount."""
        try:
            umount2(self.mount.target, MNT_DETACH)
        except OSError:
            pass  # EINVAL, ENOENT: not mounted any more


class ServerStep(Struct, frozen=True):
    """The file server of the root filesystem."""

    server: Server
    log: HostPath

    def describe(self) -> str:
        """Name the server and its mount point."""
        return f"start server {self.server.entry} on {self.server.config['target']}"

    def do(self, live: Live) -> None:
        """Fork it; `ServerReadyStep` waits for its mount."""
        os.makedirs(str(self.server.config["target"]), exist_ok=True)
        live.server = file_server.start(self.server, log=self.log)

    def undo(self, live: Live) -> None:
        """Unmount and end it."""
        if live.server is not None:
            live.server.end()


class ServerReadyStep(Struct, frozen=True):
    """The moment from which the server's filesystem can be used."""

    target: str

    def describe(self) -> str:
        """Name the mount point."""
        return f"wait until the server has mounted {self.target}"

    def do(self, live: Live) -> None:
        """Wait."""
        if live.server is not None:
            live.server.wait_ready()

    def undo(self, live: Live) -> None:
        """Nothing: the server is ended where it was started."""


class ShiftOwnersStep(Struct, frozen=True):
    """Owners of a user namespace, where the storage driver cannot show them mapped; once in a container's life."""

    rootfs: HostPath
    user_map: UserMap

    def describe(self) -> str:
        """Name the tree."""
        return f"change the owners of all files below {self.rootfs} to those of the user namespace"

    def do(self, live: Live) -> None:  # noqa: ARG002
        """Walk and change."""
        from plugengine.trees import owners

        owners.shift_tree(self.rootfs, self.user_map)

    def undo(self, live: Live) -> None:
        """Nothing: the files belong to the container."""


class FillVolumesStep(Struct, frozen=True):
    """Copy the image's content into new, empty volumes."""

    rootfs: HostPath
    fills: tuple[tuple[GuestPath, HostPath], ...]  # where it is mounted, the volume's directory
    user_map: UserMap | None  # the root filesystem shows owners outside of it

    def describe(self) -> str:
        """Name the mount points."""
        return "fill volumes of " + ", ".join(guest for guest, _host in self.fills)

    def do(self, live: Live) -> None:  # noqa: ARG002
        """Copy each."""
        from plugengine import volumes

        for guest, host in self.fills:
            volumes.fill(self.rootfs, guest, host, self.user_map)

    def undo(self, live: Live) -> None:
        """Keep them: a volume outlives its container."""
