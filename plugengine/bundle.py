"""What a runtime is given: the inside of one container and the process it runs, as values.

The same things as in the `config.json` of an OCI bundle (runtime-spec, config.md and config-linux.md), settled: names
of users are looked up, devices have numbers, limits are checked. Everything is keyword-only, immutable and JSON-able,
like `plugengine.model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from msgspec import Struct

from plugengine.model import CgroupEntry, GuestPath, HostPath, NamespacePlan, Record, UserMap


class Rlimit(Struct, frozen=True, kw_only=True):
    """One resource limit; -1 is unlimited; see getrlimit(2)."""

    name: str  # nofile, nproc, core …
    soft: int
    hard: int


class Identity(Struct, frozen=True, kw_only=True):
    """Who a process is, in ids of the container's user namespace; see credentials(7)."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, the primary one among them: CVE-2022-36109


class Process(Struct, frozen=True, kw_only=True):
    """A process of a container: the first one, or one of `exec`."""

    argv: tuple[str, ...]  # without a slash in its first word: looked for in the PATH of `env`, inside the container
    env: tuple[str, ...]  # KEY=value, each key once
    cwd: GuestPath = GuestPath("/")  # made if it is missing
    user: str = ""  # as asked for, "name|uid[:group|gid]"; for people, `identity` says what it is
    add_groups: tuple[str, ...] = ()  # likewise
    identity: Identity | None = None  # None in a plan only: the container's own /etc/passwd has the names
    capabilities: tuple[str, ...] = ()  # CAP_…: bounding, and for user 0 permitted and effective; no others
    no_new_privileges: bool = False
    seccomp: str = "default"  # unconfined, or the JSON text of a profile in docker's form: see security/seccomp_json.py
    rlimits: tuple[Rlimit, ...] = ()  # a hard limit may be above the engine's own
    umask: int = 0o022
    oom_score_adj: int | None = None  # None: the engine's own
    terminal: bool = False  # a pseudoterminal of the container's own devpts is its three streams
    platform: str = ""  # os/architecture of the image; empty: this machine's
    init: bool = False  # the first process passes signals on, reaps, and ends as its child, the command, does


class GuestMount(Struct, frozen=True, kw_only=True):
    """One mount inside the container, on a mount point that is made if it is missing."""

    target: GuestPath
    fstype: str  # of a new filesystem; "bind": the directory, file or device `source` of the host
    source: str = ""
    flags: int = 0  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_NODIRATIME, MS_STRICTATIME; bind: MS_REC
    options: tuple[tuple[str, str | None], ...] = ()  # filesystem parameters in order
    propagation: str = "private"  # slave, shared; mount_namespaces(7)
    user_map: UserMap | None = None  # id-mapped (bind only); see mount_setattr(2)
    subpath: str = ""  # bind only: what to mount of `source`, looked up at the start, never out of it: CVE-2021-25741
    volume: str = ""  # the name of the volume `source` is, for messages
    # The image's symbolic links on the way are followed, inside its root; else they are refused. A new tmpfs has the
    # mode of the directory it covers, unless `options` say another. These are the caller's own mounts.
    follow: bool = False
    optional: bool = False  # a kernel without this filesystem is fine


class DeviceNode(Struct, frozen=True, kw_only=True):
    """One device node; where mknod(2) is refused, in a user namespace, the host's own node is bound there."""

    path: GuestPath
    type: str  # "c" or "b"
    major: int
    minor: int
    mode: int  # permissions
    uid: int = 0
    gid: int = 0
    host: HostPath  # the same device outside


class Sysctl(Struct, frozen=True, kw_only=True):
    """One kernel parameter of the container's own namespaces."""

    path: str  # below /proc/sys: net/ipv4/ip_forward
    value: str
    optional: bool = False  # a kernel without it is fine


class Bundle(Struct, frozen=True, kw_only=True):
    """One container as its runtime sees it.

    In this order: the mounts, device nodes and links, the terminal, names and kernel parameters, the working directory,
    paths made read-only and masked, the root made read-only; then the process.
    """

    container_id: str
    root: HostPath  # the root filesystem, mounted in the monitor's mount namespace
    read_only: bool = False  # the root, not what is mounted below it
    namespaces: NamespacePlan
    hostname: str | None = None  # None: the UTS namespace is not the container's own
    domainname: str = ""
    mounts: tuple[GuestMount, ...] = ()  # one that is read-only becomes so after those below it are there
    devices: tuple[DeviceNode, ...] = ()
    links: tuple[tuple[GuestPath, str], ...] = ()  # symbolic: path, what it says
    sysctls: tuple[Sysctl, ...] = ()
    read_only_paths: tuple[GuestPath, ...] = ()  # those that exist
    masked_paths: tuple[GuestPath, ...] = ()  # likewise: nothing can be read there
    process: Process


Stdio = tuple[int, int, int]  # descriptors of standard input, output and error


class RuntimeRequest(Struct, frozen=True, kw_only=True):
    """One container, as every verb of a runtime sees it."""

    container_id: str
    directory: HostPath  # the runtime's own for this container, which it makes if it needs it; gone after a reboot
    shared: HostPath  # the runtime's own for all containers, likewise; survives a reboot
    options: Mapping[str, Any] = {}  # see `Option`


class Spawn(Struct, frozen=True, kw_only=True):
    """What a new process gets of the engine, besides its description."""

    stdio: Stdio | None = None  # lent for the call; None: the process has a terminal
    cgroup: CgroupEntry | None = None  # how it enters the container's group; None: it stays in the caller's


class RuntimeProcess(Struct, frozen=True, kw_only=True):
    """A process that a runtime made: a child of the process that called it, or given to it as its next subreaper."""

    pid: int  # on the host
    terminal: int | None = None  # descriptor of the pseudoterminal's master, the caller's from now on
    record: Record = {}  # of the first process: enough to signal and delete it, from any process
    warnings: tuple[str, ...] = ()


class RuntimeStatus(Enum):
    """Where the first process of a container is; as `status` of an OCI runtime's state."""

    CREATED = "created"  # held at its gate
    RUNNING = "running"
    STOPPED = "stopped"  # ended, or never was


class RuntimeState(Struct, frozen=True, kw_only=True):
    """What a runtime knows of a container now."""

    status: RuntimeStatus
    pid: int = 0  # of the first process on the host; 0: it has ended
