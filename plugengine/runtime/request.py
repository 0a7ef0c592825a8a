"""What the inside of a container is planned from."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from plugengine.model import GuestPath, HostPath, Mount, NamespacePlan
from plugengine.spec import ContainerSpec, Device, ImageConfig


class ResolvedMount(Struct, frozen=True, kw_only=True):
    """One mount the caller asked for; volumes are resolved to their directory on the host."""

    target: GuestPath
    source: HostPath | None = None  # None: a tmpfs
    read_only: bool = False
    recursive: bool = True  # with the mounts below the source
    propagation: str = "rprivate"
    volume: str = ""  # its name; with a user namespace its ids on disk are those inside
    subpath: str = ""  # of a volume only: what to mount of it
    options: tuple[tuple[str, str | None], ...] = ()  # tmpfs: size, mode, noexec …


class InsideRequest(Struct, frozen=True, kw_only=True):
    """Everything the mounts and names of a container depend on."""

    container_id: str
    rootfs: HostPath  # where it will be mounted, in the monitor's mount namespace
    spec: ContainerSpec
    config: ImageConfig
    hostname: str
    namespaces: NamespacePlan
    etc_files: Mapping[GuestPath, HostPath] = {}  # /etc/hosts, /etc/hostname, /etc/resolv.conf; bound read-write
    mounts: tuple[ResolvedMount, ...] = ()
    cgroup_mounts: tuple[Mount, ...] = ()  # targets are relative to the guest's /sys/fs/cgroup
    devices: tuple[Device, ...] = ()
    shm: HostPath | None = None  # of a shared IPC namespace: what to bind on /dev/shm
    masked: tuple[GuestPath, ...] | None = None  # None: plugengine.security.paths.masked()

    @property
    def has_user_namespace(self) -> bool:
        """Tell whether the container has a user namespace of its own."""
        return self.namespaces.user_map is not None

    def owns(self, namespace: int) -> bool:
        """Tell whether the container has a namespace of its own of a kind, given as CLONE_NEW*."""
        return bool(self.namespaces.clone_flags & namespace)
