"""What the library hands out: containers and what belongs to them, as frozen values.

A value shows its object as it was when it was asked for; ask again to see what became of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from plugengine.model import (
    Attachment,
    CgroupStats,
    GuestPath,
    HostPath,
    Network,
    NetworkStats,
    Record,
    UserMap,
    short_id,
)
from plugengine.spec import ContainerSpec, DriverChoice, ImageConfig


class ContainerState(Struct, frozen=True, kw_only=True):
    """What became of a container; times are CLOCK_REALTIME, start times as in proc_pid_stat(5)."""

    pid: int = 0  # the first process, as the host sees it; 0: none
    pid_start: int = 0
    monitor_pid: int = 0
    monitor_start: int = 0
    server_pid: int = 0  # the file server
    server_start: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""  # why it could not be started, or why its exit code is unknown
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    stopped_by_user: bool = False
    warnings: tuple[str, ...] = ()


class MountPoint(Struct, frozen=True, kw_only=True):
    """One mount of a container with its place on the host settled."""

    type: str  # bind, volume, tmpfs
    target: GuestPath
    source: HostPath = HostPath("")  # empty for tmpfs
    name: str = ""  # of the volume
    anonymous: bool = False
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    options: tuple[tuple[str, str | None], ...] = ()


class Connection(Struct, frozen=True, kw_only=True):
    """One connection of a running container to a network."""

    network: str
    attachment: Attachment


class Container(Struct, frozen=True, kw_only=True):
    """One container."""

    id: str  # 64 hexadecimal digits
    name: str
    status: str  # creating, created, starting, running, paused, exited, removing, dead
    recovering: bool = False  # its owner died; what that left is being undone
    created_ns: int
    image_id: str
    image_name: str  # as it was asked for
    spec: ContainerSpec  # what was asked for
    drivers: DriverChoice
    config: ImageConfig = field(default_factory=ImageConfig)  # what its image says
    state: ContainerState = field(default_factory=ContainerState)
    mounts: tuple[MountPoint, ...] = ()
    connections: tuple[Connection, ...] = ()  # empty unless it runs
    user_map: UserMap | None = None
    files: Mapping[str, HostPath] = field(default_factory=dict)  # log, hosts, hostname, resolv.conf
    records: Mapping[str, Record] = field(default_factory=dict)  # what each kind of driver keeps of it

    @property
    def running(self) -> bool:
        """Whether there is a first process; a paused one counts."""
        return self.status in ("running", "paused")

    @property
    def hostname(self) -> str:
        """The host name inside, unless it shares that of another."""
        return self.spec.hostname or short_id(self.id)


class ContainerStats(Struct, frozen=True, kw_only=True):
    """What a running container uses, as far as its drivers tell."""

    cgroup: CgroupStats = CgroupStats()
    network: NetworkStats | None = None  # None: not known
    problems: tuple[str, ...] = ()  # why something is not known, one sentence for each driver that failed


class LiveLink(Struct, frozen=True, kw_only=True):
    """One link of the host that belongs to a network."""

    name: str
    kind: str  # bridge, veth, vxlan …; "device" for hardware
    mac: str | None
    mtu: int
    state: str  # RFC 2863: up, down, unknown …
    master: str | None  # the bridge it is a port of
    addresses: tuple[str, ...]  # CIDR


class LiveRoute(Struct, frozen=True, kw_only=True):
    """One route of the host's main table by a link of a network."""

    destination: str  # CIDR, or "default"
    gateway: str | None
    link: str


class LiveNeighbour(Struct, frozen=True, kw_only=True):
    """Whom the host has met on a link of a network; see ip-neighbour(8)."""

    address: str
    mac: str | None
    link: str
    state: str  # reachable, stale, failed …


class LiveRule(Struct, frozen=True, kw_only=True):
    """One nf_tables rule of the host that looks at interfaces."""

    family: str  # ip, ip6, inet …
    table: str
    chain: str
    text: str  # roughly as nft(8) has it


class LiveNetwork(Struct, frozen=True, kw_only=True):
    """What the kernel has of a network just now."""

    links: tuple[LiveLink, ...] = ()
    routes: tuple[LiveRoute, ...] = ()
    neighbours: tuple[LiveNeighbour, ...] = ()
    rules: tuple[LiveRule, ...] = ()


class NetworkDetails(Struct, frozen=True, kw_only=True):
    """A network, what its driver keeps of it, and who is on it."""

    network: Network
    record: Record | None  # None: the driver has not made its side
    containers: tuple[Container, ...]  # those that run
