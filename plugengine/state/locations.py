"""Where the engine keeps things: the two roots, and the name of every file and directory below them."""

from __future__ import annotations

import errno
import os
import stat
from binascii import crc32

from msgspec import Struct

from plugengine.errors import NoSpaceError, StateError
from plugengine.model import HostPath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT_VARIABLE = "PLUGENGINE_ROOT"
RUN_ROOT_VARIABLE = "PLUGENGINE_RUN_ROOT"
DEFAULT_ROOT = HostPath("/var/lib/plugengine")
DEFAULT_RUN_ROOT = HostPath("/run/plugengine")

# Others may pass through the root but see nothing in it; all that holds image or container content is closed,
# or a setuid program of an image could be run by any user of the host (CVE-2021-41103, CVE-2024-25621).
_ROOT_MODE = 0o711
_PRIVATE_MODE = 0o700

# An address of a unix socket holds 108 bytes (unix(7)); 96 bits of an id are unique enough for its run directory.
_RUN_ID_LENGTH = 24


class Locations(Struct, frozen=True):
    """The two roots, and every path below them; pure except for `ensure`."""

    root: HostPath  # persistent
    run_root: HostPath  # lost at reboot

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], *, root: str | None = None, run_root: str | None = None
    ) -> Locations:
        """Choose the roots: the argument, else the environment, else the default; made absolute.

        Links in the persistent root are resolved: what an engine makes elsewhere is marked with it, so it has one name.
        """
        return cls(
            HostPath(os.path.realpath(root or environ.get(ROOT_VARIABLE) or DEFAULT_ROOT)),
            HostPath(os.path.abspath(run_root or environ.get(RUN_ROOT_VARIABLE) or DEFAULT_RUN_ROOT)),
        )

    def ensure(self) -> None:
        """Make both roots and the fixed directories below them; idempotent.

        Raises:
            StateError: A directory cannot be made, or belongs to somebody else.
            NoSpaceError: The filesystem is full.
        """
        self.ensure_root()
        _make_directory(self.run_root, _PRIVATE_MODE)
        _make_directory(self.run_containers, _PRIVATE_MODE)

    def ensure_root(self) -> None:
        """Make the persistent root and the fixed directories below it; idempotent. Raises as `ensure`."""
        _make_directory(self.root, _ROOT_MODE)
        for path in (self.blobs, self.layers, self.containers, self.volumes, self.tmp):
            _make_directory(path, _PRIVATE_MODE)

    # --- the persistent root ---

    @property
    def database(self) -> HostPath:
        """The state database."""
        return HostPath(f"{self.root}/state.db")

    @property
    def blobs(self) -> HostPath:
        """Content by digest, in the layout of an OCI image."""
        return HostPath(f"{self.root}/blobs")

    @property
    def layers(self) -> HostPath:
        """The layer store: unpacked layers by diff id."""
        return HostPath(f"{self.root}/layers")

    @property
    def containers(self) -> HostPath:
        """One directory per container."""
        return HostPath(f"{self.root}/containers")

    @property
    def volumes(self) -> HostPath:
        """One directory per volume."""
        return HostPath(f"{self.root}/volumes")

    @property
    def tmp(self) -> HostPath:
        """Work in progress, on the filesystem it will be renamed within."""
        return HostPath(f"{self.root}/tmp")  # noqa: S108 - below our own root

    def container(self, container_id: str) -> HostPath:
        """Everything persistent of one container."""
        return HostPath(f"{self.root}/containers/{container_id}")

    def storage(self, container_id: str, driver: str) -> HostPath:
        """The directory a storage driver has to itself for one container."""
        return HostPath(f"{self.root}/containers/{container_id}/{driver}")

    @property
    def shared(self) -> HostPath:
        """One directory per storage driver that keeps something for several containers."""
        return HostPath(f"{self.root}/storage")

    def shared_by(self, driver: str) -> HostPath:
        """The directory a storage driver has to itself for all containers; made by the driver."""
        return HostPath(f"{self.root}/storage/{driver}")

    def log(self, container_id: str) -> HostPath:
        """What the container wrote to its standard output and error."""
        return HostPath(f"{self.root}/containers/{container_id}/container.log")

    def server_log(self, container_id: str) -> HostPath:
        """Standard error of the container's file server."""
        return HostPath(f"{self.root}/containers/{container_id}/server.log")

    def monitor_log(self, container_id: str) -> HostPath:
        """Standard error of the container's monitor."""
        return HostPath(f"{self.root}/containers/{container_id}/monitor.log")

    def etc(self, container_id: str, name: str) -> HostPath:
        """One of the files given to the guest: hosts, hostname, resolv.conf."""
        return HostPath(f"{self.root}/containers/{container_id}/{name}")

    def volume(self, name: str) -> HostPath:
        """Everything of one volume."""
        return HostPath(f"{self.root}/volumes/{name}")

    def volume_data(self, name: str) -> HostPath:
        """What a container sees of a volume."""
        return HostPath(f"{self.root}/volumes/{name}/_data")

    def shared_by_runtime(self, driver: str) -> HostPath:
        """The directory a runtime has to itself for all containers; made by the driver."""
        return HostPath(f"{self.root}/runtime/{driver}")

    # --- the run root ---

    @property
    def recovery_log(self) -> HostPath:
        """Standard error of the last recovery in the background."""
        return HostPath(f"{self.run_root}/recovery.log")

    @property
    def cgroup_parents(self) -> HostPath:
        """One file for each control group that containers were put below."""
        return HostPath(f"{self.run_root}/cgroup-parents")

    @property
    def run_containers(self) -> HostPath:
        """One directory per container that runs."""
        return HostPath(f"{self.run_root}/c")

    @property
    def run_prefix(self) -> str:
        """What the names of this engine's run directories begin with: engines may share a run root."""
        return f"{crc32(os.fsencode(self.root)):08x}"

    def run_name(self, container_id: str) -> str:
        """The name of a container's run directory, for comparison with a listing."""
        return f"{self.run_prefix}{container_id[:_RUN_ID_LENGTH]}"

    def run(self, container_id: str) -> HostPath:
        """Everything of one container that a reboot ends."""
        return HostPath(f"{self.run_root}/c/{self.run_name(container_id)}")

    def monitor_socket(self, container_id: str) -> HostPath:
        """Where a container's monitor listens."""
        return HostPath(f"{self.run(container_id)}/s")

    def runtime(self, container_id: str) -> HostPath:
        """The directory a runtime has to itself for one container; made by the driver."""
        return HostPath(f"{self.run(container_id)}/runtime")

    def rootfs(self, container_id: str) -> HostPath:
        """Where a container's root filesystem is mounted, in the mount namespace of its monitor."""
        return HostPath(f"{self.run(container_id)}/root")


def _make_directory(path: HostPath, mode: int) -> None:
    """Make a directory and its parents; one that is there loses the permissions beyond `mode`."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        _restrict(path, mode)
    except FileNotFoundError as exc:
        if os.path.isdir(os.path.dirname(path)):
            raise directory_error("make directory", exc, path) from exc  # a filesystem like proc, where nothing is made
        _make_parents(os.path.dirname(path))
        _make_directory(path, mode)
    except OSError as exc:
        raise directory_error("make directory", exc, path) from exc
    else:
        _restrict(path, mode)


def _make_parents(path: str) -> None:
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as exc:
        raise directory_error("make directory", exc, path) from exc


def _restrict(path: HostPath, mode: int) -> None:
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StateError(f"state directory {path}: is not a directory", hint="remove it, or choose another root")
    if found.st_uid != os.geteuid():
        raise StateError(
            f"state directory {path}: belongs to user {found.st_uid}, not to user {os.geteuid()}",
            hint="whoever owns it could change the engine's state; choose another root",
        )
    if stat.S_IMODE(found.st_mode) & ~mode & 0o077:
        try:
            os.chmod(path, stat.S_IMODE(found.st_mode) & mode)
        except OSError as exc:
            raise directory_error("change mode of", exc, path) from exc


def directory_error(action: str, exc: OSError, path: str) -> StateError | NoSpaceError:
    """Say in the engine's words why a state file or directory cannot be written."""
    message = f"{action} {path}: {os.strerror(exc.errno or 0).lower()}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(message, hint="free some space, or put the root elsewhere")
    hints = {
        errno.EROFS: "the filesystem is mounted read-only; choose a root on a writable one",
        errno.EACCES: "the engine needs root, or a root directory of its own",
        errno.EPERM: "the engine needs root, or a root directory of its own",
    }
    hint = hints.get(exc.errno or 0, f"choose another root, with --root or {ROOT_VARIABLE}")
    return StateError(message, hint=hint)
