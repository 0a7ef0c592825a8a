"""Frozen values that cross the border between the core, the drivers and the callers.

Every value is keyword-only, immutable and JSON-able through `encode` and `decode`; units are part of the names.
Paths are plain strings of two different types, so that mypy finds a host path used inside the guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NewType, TypeVar

import msgspec
from msgspec import Struct, field

HostPath = NewType("HostPath", str)  # absolute, in the host's (or the monitor's) mount namespace
GuestPath = NewType("GuestPath", str)  # absolute, below the container's root

Record = Mapping[str, Any]  # JSON object a driver returns and later gets back; enough to unmake after a reboot


class Kind(Enum):
    """The five kinds of drivers; the value is also the entry-point group's last word."""

    STORAGE = "storage"
    NETWORK = "network"
    CGROUP = "cgroup"
    NAMESPACE = "namespace"
    RUNTIME = "runtime"


class Capability(Enum):
    """What a driver may claim; a capability claimed is tested, one not claimed raises `NotSupportedError`."""

    # storage
    NATIVE_DIFF = "native-diff"  # has the changes as a directory in overlay form
    QUOTA = "quota"  # option `size` is enforced
    USER_MAP = "user-map"  # shows mapped owners when `user_map` is given
    HOST_MOUNTS = "host-mounts"  # `prepare` mounts something for everyone to see, until `remove`
    # network
    ADDRESSES = "addresses"  # wants leases from the core's IPAM
    PORTS = "ports"  # publishes ports
    HOST_NAMESPACE = "host-namespace"  # the container stays in the host's network namespace
    # cgroup
    FREEZE = "freeze"
    DEVICES = "devices"  # enforces the device allow-list
    # namespace and runtime
    USER_NAMESPACE = "user-namespace"
    TIME_NAMESPACE = "time-namespace"
    # runtime
    INIT = "init"  # puts a process of its own before the command (--init)
    ID_MAPPED_MOUNTS = "id-mapped-mounts"  # mounts with a `user_map`


class OptionKind(Enum):
    """What the value of an option is; drivers get it as the type named."""

    TEXT = "text"  # str, as it was written
    CHOICE = "choice"  # str, one of `choices`
    FLAG = "flag"  # bool: true, on, yes, 1; false, off, no, 0
    INTEGER = "integer"  # int from `least` to `most`
    SIZE = "size"  # int, bytes: 512m, 1.5g, 4096
    DURATION = "duration"  # float, seconds: 20, 1m30s, 250ms
    PATH = "path"  # str, an absolute path of the host


OptionValue = str | int | float | bool | None


class Option(Struct, frozen=True, kw_only=True):
    """One driver option (`--storage-opt name=value`).

    The core checks what was given once, before anything is made, and hands drivers values: every option is there, with
    its default or None if nothing was given.
    """

    name: str
    help: str
    kind: OptionKind = OptionKind.TEXT
    default: str | None = None  # as people would write it
    choices: tuple[str, ...] = ()
    least: int | None = None  # of an integer, bytes of a size, seconds of a duration
    most: int | None = None
    required: bool = False  # nothing works without it


class Deviation(Struct, frozen=True, kw_only=True):
    """Where a driver knowingly does not do what a case of the conformance kit asks for.

    The kit runs these cases all the same. One that fails is reported as deviating, with `why`, and never as passed; one
    that passes is a failure: the declaration is to be removed.
    """

    cases: tuple[str, ...]  # ids, e.g. "storage.content.times"
    why: str  # for people who choose a driver; what fails, and whose fault it is
    sometimes: bool = False  # the cases fail in some runs only: to pass is no failure then


class DriverInfo(Struct, frozen=True, kw_only=True):
    """What a driver says of itself."""

    api_version: tuple[int, int]  # major, minor of plugengine.hookspecs.API_VERSION it was written for
    summary: str
    capabilities: frozenset[Capability] = frozenset()
    options: tuple[Option, ...] = ()
    rank: int = 0  # among the supported drivers of a kind the highest rank is the default
    deviations: tuple[Deviation, ...] = ()  # cases of the conformance kit it does not pass, and why


class Host(Struct, frozen=True, kw_only=True):
    """Where the engine runs; handed to probes."""

    root: HostPath  # persistent state
    run_root: HostPath  # lost at reboot
    kernel: tuple[int, int]


class IdRange(Struct, frozen=True, kw_only=True):
    """`size` ids starting at `guest` inside are those starting at `host` outside; see user_namespaces(7)."""

    guest: int
    host: int
    size: int


class UserMap(Struct, frozen=True, kw_only=True):
    """The uid and gid maps of a user namespace."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]


def host_id(ranges: tuple[IdRange, ...], inside: int) -> int | None:
    """Return the id outside for one inside; None: it is not mapped."""
    for each in ranges:
        if each.guest <= inside < each.guest + each.size:
            return each.host + inside - each.guest
    return None


def guest_id(ranges: tuple[IdRange, ...], outside: int) -> int | None:
    """Return the id inside for one outside; None: it is not mapped."""
    for each in ranges:
        if each.host <= outside < each.host + each.size:
            return each.guest + outside - each.host
    return None


# --- storage -----------------------------------------------------------------------------------------------


class StorageRequest(Struct, frozen=True, kw_only=True):
    """One container's root filesystem, as a storage driver sees it."""

    container_id: str
    chain: tuple[HostPath, ...]  # layer directories of the layer store, lowest first; never written to
    directory: HostPath  # the driver's own directory for this container, made and finally deleted by the core
    target: HostPath  # empty directory where the root filesystem is to appear; gone after a reboot
    shared: HostPath = HostPath("")  # the driver's own for all containers, which it makes if it needs it; see gc
    options: Mapping[str, Any] = field(default_factory=dict)  # see `Option`: text in the core, values for drivers
    user_map: UserMap | None = None
    read_only: bool = False  # only to be looked at
    written_by: str = ""  # "distribution version" of the driver that made the record; empty: there is none yet
    ephemeral: bool = False  # removed when it stops (--rm): nothing of it need survive a crash of the host


class Mount(Struct, frozen=True, kw_only=True):
    """One mount as data; the core performs it. See mount(2), fsconfig(2)."""

    fstype: str  # "bind" for a bind mount of `source`
    source: str
    target: HostPath
    flags: int = 0  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME …; MS_REC with bind
    options: tuple[tuple[str, str | None], ...] = ()  # filesystem parameters in order; keys may repeat
    user_map: UserMap | None = None  # id-mapped mount (bind only); see mount_setattr(2)


class Server(Struct, frozen=True, kw_only=True):
    """A file server process the core starts, watches and ends.

    `entry` is "module:function"; the function is called in a process of its own, in the mount namespace of the
    container's monitor, as `function(config, ready)`: it mounts at `config["target"]`, calls `ready()` and returns
    when the filesystem is unmounted. Its standard error goes to the container's server log.
    """

    entry: str
    config: Record


class Rootfs(Struct, frozen=True, kw_only=True):
    """How a root filesystem comes to be: mounts in order, then at most one server."""

    mounts: tuple[Mount, ...] = ()
    server: Server | None = None


class Change(Struct, frozen=True, kw_only=True):
    """One difference between a container and its image."""

    path: GuestPath
    kind: str  # "A" added, "C" changed, "D" deleted


class Upper(Struct, frozen=True, kw_only=True):
    """A directory that holds a container's changes in overlay form; see overlayfs.rst.

    What was deleted is a character device 0:0, a directory that hides those below has `trusted.overlay.opaque` "y".
    """

    directory: HostPath  # for reading; a running container writes to it
    user_map: UserMap | None = None  # owners in it are those outside this map; None: as the container sees them


class Usage(Struct, frozen=True, kw_only=True):
    """Space a writable layer takes."""

    size_bytes: int
    inodes: int


# --- network -----------------------------------------------------------------------------------------------


class Network(Struct, frozen=True, kw_only=True):
    """A network object; the core keeps its row and leases its addresses."""

    name: str
    driver: str
    subnet: str | None = None  # CIDR, None when the driver does not claim ADDRESSES
    gateway: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # see `Option`: text in the core, values for drivers
    ip_range: str | None = None  # CIDR: the part of the subnet addresses are leased from; None: all of it
    owner: str = ""  # `Host.root` of the engine; a host may have several, with networks of the same name


class Port(Struct, frozen=True, kw_only=True):
    """One published port.

    In a container's specification `host_port` 0 asks for a free one, and `host_port_last` for the first free one of a
    range. The core leases ports, so that drivers are asked for one number, mostly; 0 asks them for a free one.
    """

    host_ip: str
    host_port: int
    guest_port: int
    protocol: str = "tcp"  # tcp, udp, sctp
    host_port_last: int = 0  # more than `host_port`: any from that to this; drivers do not see it


class NetworkRequest(Struct, frozen=True, kw_only=True):
    """One connection of a container to a network."""

    container_id: str
    network: Network
    network_record: Record  # what `pe_network_create` returned
    netns: int = -1  # open descriptor of the container's network namespace, lent to attach and stats; else -1
    address: str | None = None  # leased, CIDR, None when the driver does not claim ADDRESSES
    mac: str | None = None
    ports: tuple[Port, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # see `Option`: text in the core, values for drivers


class Interface(Struct, frozen=True, kw_only=True):
    """One interface inside the container."""

    name: str
    mac: str | None = None
    addresses: tuple[str, ...] = ()  # CIDR
    mtu: int | None = None
    host_name: str | None = None  # the peer on the host


class Attachment(Struct, frozen=True, kw_only=True):
    """What `pe_network_attach` made; enough for `pe_network_detach` after a restart of the host."""

    interfaces: tuple[Interface, ...] = ()
    gateway: str | None = None
    dns: tuple[str, ...] = ()  # empty: the host's resolvers are copied
    ports: tuple[Port, ...] = ()  # as published, free ports resolved
    record: Record = field(default_factory=dict)


class NetworkStats(Struct, frozen=True, kw_only=True):
    """Counters since the container started."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0


# --- cgroup ------------------------------------------------------------------------------------------------


class DeviceRate(Struct, frozen=True, kw_only=True):
    """A rate limit of one block device, by device number."""

    major: int
    minor: int
    rate: int  # bytes or operations a second


class DeviceRule(Struct, frozen=True, kw_only=True):
    """One entry of the device allow-list; None stands for every number."""

    type: str  # "c", "b" or "a" (all)
    major: int | None
    minor: int | None
    access: str  # of "rwm"


class Limits(Struct, frozen=True, kw_only=True):
    """Resource limits; None everywhere means no limit of our own."""

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None  # memory + swap; -1: unlimited swap
    memory_reservation_bytes: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int = 100_000
    cpu_shares: int | None = None  # 2 … 262144, docker's scale
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None  # -1: unlimited
    blkio_weight: int | None = None  # 10 … 1000
    read_bps: tuple[DeviceRate, ...] = ()
    write_bps: tuple[DeviceRate, ...] = ()
    read_iops: tuple[DeviceRate, ...] = ()
    write_iops: tuple[DeviceRate, ...] = ()
    devices: tuple[DeviceRule, ...] | None = None  # None: every device (privileged)


class Setting(Struct, frozen=True, kw_only=True):
    """One value written to one control file, relative to the container's group."""

    controller: str  # v1: hierarchy, v2: "" (unified)
    file: str
    value: str


class Settings(Struct, frozen=True, kw_only=True):
    """The limits as writes in order, and the limits this host cannot enforce (named as on the command line)."""

    writes: tuple[Setting, ...] = ()
    unsupported: tuple[str, ...] = ()  # e.g. "--blkio-weight: no io.weight on this kernel"


class CgroupRequest(Struct, frozen=True, kw_only=True):
    """One container's control group."""

    container_id: str
    parent: str = "plugengine"  # path below the hierarchy's root
    owner: str = ""  # `Host.root` of the engine; several engines share a parent, and `gc` must know its own groups
    options: Mapping[str, Any] = field(default_factory=dict)  # see `Option`: text in the core, values for drivers


class CgroupEntry(Struct, frozen=True, kw_only=True):
    """How a new process enters its group by itself.

    Moving another process stops every fork and exit of the machine for a grace period (cgroup_threadgroup_rwsem):
    6 to 14 ms measured, where entering by itself takes 0.3 ms.
    """

    clone_into: HostPath | None = None  # directory for CLONE_INTO_CGROUP of clone3(2)
    tasks: tuple[HostPath, ...] = ()  # files to which the new process writes "0" while it has one thread


class CgroupStats(Struct, frozen=True, kw_only=True):
    """Resource use of a container; None where the host does not account for it."""

    cpu_usage_ns: int | None = None
    memory_bytes: int | None = None  # without inactive page cache, as docker stats
    memory_limit_bytes: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    oom_kills: int = 0
    extra: Mapping[str, int] = {}  # by names of the driver's own; in `pe stats --format json` as DriverStats


# --- namespace ---------------------------------------------------------------------------------------------


class NamespaceRequest(Struct, frozen=True, kw_only=True):
    """The mode of each namespace.

    `modes` maps "pid net mnt uts ipc cgroup user time" to "private", "host" or "container:<host pid>".
    """

    container_id: str
    modes: Mapping[str, str]
    user_map: UserMap | None = None  # the map wanted, or allotted by the core for `--userns auto`
    options: Mapping[str, Any] = field(default_factory=dict)  # see `Option`: text in the core, values for drivers


class NamespacePlan(Struct, frozen=True, kw_only=True):
    """What the core does with clone3(2), setns(2) and unshare(2)."""

    clone_flags: int  # CLONE_NEW* for clone3
    unshare_flags: int = 0  # after the child is in its control group: CLONE_NEWCGROUP
    join: tuple[tuple[str, HostPath], ...] = ()  # (namespace, /proc/PID/ns/… to setns into before clone)
    user_map: UserMap | None = None
    time_offsets: tuple[tuple[str, int], ...] = ()  # ("monotonic"|"boottime", seconds)


# --- events ------------------------------------------------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened to a container; handed to observers.

    Actions and their detail: create (name, image); step-begin, step-end (step, what, undo: "true" on the way down);
    start; server-died; oom; die (exit_code); stop (name, signal: somebody asked); remove (name). A start is told when
    the command runs; its steps come before it.
    """

    container_id: str
    action: str
    time_ns: int  # CLOCK_REALTIME
    detail: Mapping[str, str] = field(default_factory=dict)


# --- ids ---------------------------------------------------------------------------------------------------

SHORT_ID_LENGTH: Final = 12


def short_id(identifier: str) -> str:
    """Return the twelve digits of an id or digest that people read."""
    return identifier.removeprefix("sha256:")[:SHORT_ID_LENGTH]


# --- JSON --------------------------------------------------------------------------------------------------

_T = TypeVar("_T")


def encode(value: Any) -> Any:
    """Return `value` as plain JSON types; structs become objects, enums their value, sets lists."""
    return msgspec.to_builtins(value)


def decode(cls: type[_T], data: Any) -> _T:
    """Rebuild a value of this module (or of `plugengine.spec`) from what `encode` returned.

    Raises:
        TypeError: The data does not fit; unknown keys are ignored, so that older engines read newer records.
    """
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as exc:
        raise TypeError(f"{cls.__name__}: {exc}") from exc
