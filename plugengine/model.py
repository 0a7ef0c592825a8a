"""Frozen values that cross the border between the core, the drivers and the callers.

Every value is keyword-only, immutable and JSON-able through `encode` and `decode`; units are part of the names.
Paths are plain strings of two different types, so that mypy finds a host path used inside the guest.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, NewType, TypeVar, cast

HostPath = NewType("HostPath", str)  # absolute, in the host's (or the monitor's) mount namespace
GuestPath = NewType("GuestPath", str)  # absolute, below the container's root

Record = Mapping[str, Any]  # JSON object a driver returns and later gets back; enough to unmake after a reboot


class Kind(Enum):
    """The four kinds of drivers; the value is also the entry-point group's last word."""

    STORAGE = "storage"
    NETWORK = "network"
    CGROUP = "cgroup"
    NAMESPACE = "namespace"


class Capability(Enum):
    """What a driver may claim; a capability claimed is tested, one not claimed raises `NotSupportedError`."""

    # storage
    NATIVE_DIFF = "native-diff"  # `changes` without a walk of the lower layers
    QUOTA = "quota"  # option `size` is enforced
    USER_MAP = "user-map"  # shows mapped owners when `user_map` is given
    # network
    ADDRESSES = "addresses"  # wants leases from the core's IPAM
    PORTS = "ports"  # publishes ports
    HOST_NAMESPACE = "host-namespace"  # the container stays in the host's network namespace
    # cgroup
    FREEZE = "freeze"
    DEVICES = "devices"  # enforces the device allow-list
    # namespace
    USER_NAMESPACE = "user-namespace"
    TIME_NAMESPACE = "time-namespace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One driver option (`--storage-opt name=value`)."""

    name: str
    default: str | None
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverInfo:
    """What a driver says of itself."""

    api_version: tuple[int, int]  # major, minor of plugengine.hookspecs.API_VERSION it was written for
    summary: str
    capabilities: frozenset[Capability] = frozenset()
    options: tuple[Option, ...] = ()
    rank: int = 0  # among the supported drivers of a kind the highest rank is the default


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where the engine runs; handed to probes."""

    root: HostPath  # persistent state
    run_root: HostPath  # lost at reboot
    kernel: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """`size` ids starting at `guest` inside are those starting at `host` outside; see user_namespaces(7)."""

    guest: int
    host: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMap:
    """The uid and gid maps of a user namespace."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]


# --- storage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageRequest:
    """One container's root filesystem, as a storage driver sees it."""

    container_id: str
    chain: tuple[HostPath, ...]  # layer directories of the layer store, lowest first; never written to
    directory: HostPath  # the driver's own directory for this container, made and finally deleted by the core
    target: HostPath  # empty directory where the root filesystem is to appear; gone after a reboot
    options: Mapping[str, str] = field(default_factory=dict)
    user_map: UserMap | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount as data; the core performs it. See mount(2), fsconfig(2)."""

    fstype: str  # "bind" for a bind mount of `source`
    source: str
    target: HostPath
    flags: int = 0  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME …; MS_REC with bind
    options: tuple[tuple[str, str | None], ...] = ()  # filesystem parameters in order; keys may repeat
    user_map: UserMap | None = None  # id-mapped mount (bind only); see mount_setattr(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A file server process the core starts, watches and ends.

    `entry` is "module:function"; the function is called in a process of its own, in the mount namespace of the
    container's monitor, as `function(config, ready)`: it mounts at `config["target"]`, calls `ready()` and returns
    when the filesystem is unmounted. Its standard error goes to the container's server log.
    """

    entry: str
    config: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Rootfs:
    """How a root filesystem comes to be: mounts in order, then at most one server."""

    mounts: tuple[Mount, ...] = ()
    server: Server | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between a container and its image."""

    path: GuestPath
    kind: str  # "A" added, "C" changed, "D" deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Space a writable layer takes."""

    size_bytes: int
    inodes: int


# --- network -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network object; the core keeps its row and leases its addresses."""

    name: str
    driver: str
    subnet: str | None = None  # CIDR, None when the driver does not claim ADDRESSES
    gateway: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One published port; `host_port` 0 in a request asks for a free one."""

    host_ip: str
    host_port: int
    guest_port: int
    protocol: str = "tcp"  # tcp, udp, sctp


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """One connection of a container to a network."""

    container_id: str
    network: Network
    network_record: Record  # what `pe_network_create` returned
    netns: int  # open descriptor of the container's network namespace, lent for the call
    address: str | None = None  # leased, CIDR, None when the driver does not claim ADDRESSES
    mac: str | None = None
    ports: tuple[Port, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface inside the container."""

    name: str
    mac: str | None = None
    addresses: tuple[str, ...] = ()  # CIDR
    mtu: int | None = None
    host_name: str | None = None  # the peer on the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What `pe_network_attach` made; enough for `pe_network_detach` after a restart of the host."""

    interfaces: tuple[Interface, ...] = ()
    gateway: str | None = None
    dns: tuple[str, ...] = ()  # empty: the host's resolvers are copied
    ports: tuple[Port, ...] = ()  # as published, free ports resolved
    record: Record = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStats:
    """Counters since the container started."""

    rx_bytes: int = 0
    rx_packets: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0


# --- cgroup ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRate:
    """A rate limit of one block device, by device number."""

    major: int
    minor: int
    rate: int  # bytes or operations a second


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """One entry of the device allow-list; None stands for every number."""

    type: str  # "c", "b" or "a" (all)
    major: int | None
    minor: int | None
    access: str  # of "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value written to one control file, relative to the container's group."""

    controller: str  # v1: hierarchy, v2: "" (unified)
    file: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The limits as writes in order, and the limits this host cannot hold (named as on the command line)."""

    writes: tuple[Setting, ...] = ()
    unsupported: tuple[str, ...] = ()  # e.g. "--blkio-weight: no io.weight on this kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupRequest:
    """One container's control group."""

    container_id: str
    parent: str = "plugengine"  # path below the hierarchy's root
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStats:
    """Resource use of a container; None where the host does not account for it."""

    cpu_usage_ns: int | None = None
    memory_bytes: int | None = None  # without inactive page cache, as docker stats
    memory_limit_bytes: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    oom_kills: int = 0


# --- namespace ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRequest:
    """The mode of each namespace.

    `modes` maps "pid net mnt uts ipc cgroup user time" to "private", "host" or "container:<host pid>".
    """

    container_id: str
    modes: Mapping[str, str]
    user_map: UserMap | None = None  # the map wanted, or allotted by the core for `--userns auto`
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePlan:
    """What the core does with clone3(2), setns(2) and unshare(2)."""

    clone_flags: int  # CLONE_NEW* for clone3
    unshare_flags: int = 0  # after the child is in its control group: CLONE_NEWCGROUP
    join: tuple[tuple[str, HostPath], ...] = ()  # (namespace, /proc/PID/ns/… to setns into before clone)
    user_map: UserMap | None = None
    time_offsets: tuple[tuple[str, int], ...] = ()  # ("monotonic"|"boottime", seconds)


# --- events ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a container; handed to observers."""

    container_id: str
    action: str  # create start step-begin step-end die oom stop remove …
    time_ns: int  # CLOCK_REALTIME
    detail: Mapping[str, str] = field(default_factory=dict)


# --- JSON --------------------------------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """Return `value` as plain JSON types; dataclasses become objects, enums their value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted(encode(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


_T = TypeVar("_T")


def decode(cls: type[_T], data: Any) -> _T:
    """Rebuild a value of this module (or of `plugengine.container`) from what `encode` returned.

    Raises:
        TypeError: The data does not fit; unknown keys are ignored, so that older engines read newer records.
    """
    hints = _hints(cls)
    if not isinstance(data, Mapping):
        raise TypeError(f"{cls.__name__}: expected an object, not {type(data).__name__}")
    return cls(**{name: _decode(hints[name], item) for name, item in data.items() if name in hints})


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _decode(hint: Any, data: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _decode(next(arg for arg in args if arg is not type(None)), data)
    if origin in (tuple, frozenset):
        return _decode_sequence(cast("type", origin), args, data)
    if isinstance(hint, type) and is_dataclass(hint):
        return decode(hint, data)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    return data


def _decode_sequence(origin: type, args: tuple[Any, ...], data: Any) -> Any:
    if origin is tuple and args and args[-1] is not Ellipsis:
        return tuple(_decode(arg, item) for arg, item in zip(args, data, strict=True))
    return origin(_decode(args[0], item) for item in data)
