"""The description of a container: what the caller asked for, and what its image says."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from plugengine.bundle import Rlimit
from plugengine.errors import UsageError
from plugengine.model import GuestPath, HostPath, Limits, Port


class ImageConfig(Struct, frozen=True, kw_only=True):
    """The `config` object of an OCI image; see image-spec, config.md."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # KEY=value
    working_dir: str = ""
    user: str = ""
    volumes: tuple[GuestPath, ...] = ()
    exposed_ports: tuple[str, ...] = ()  # "80/tcp"
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Image(Struct, frozen=True, kw_only=True):
    """One image of the store, resolved."""

    id: str  # sha256:… of the config
    digest: str  # sha256:… of the manifest
    names: tuple[str, ...]  # name:tag
    diff_ids: tuple[str, ...]  # sha256:…, lowest first
    layers: tuple[HostPath, ...]  # unpacked directories, lowest first
    size_bytes: int  # unpacked
    created: str  # RFC 3339
    architecture: str
    os: str
    config: ImageConfig = field(default_factory=ImageConfig)


class VolumeMount(Struct, frozen=True, kw_only=True):
    """One `-v`, `--mount` or `--tmpfs`."""

    type: str  # bind, volume, tmpfs
    target: GuestPath
    source: str = ""  # host path, volume name ("" anonymous), unused for tmpfs
    read_only: bool = False
    create_source: bool = False  # bind only: -v makes a missing host directory, --mount does not
    propagation: str = "rprivate"
    recursive: bool = True  # bind only
    no_copy: bool = False  # volume only: no copy-up of image content
    subpath: str = ""  # volume only
    options: tuple[tuple[str, str | None], ...] = ()  # tmpfs: size, mode, noexec …


class Device(Struct, frozen=True, kw_only=True):
    """One `--device`."""

    host: HostPath
    guest: GuestPath
    access: str = "rwm"


class DriverChoice(Struct, frozen=True, kw_only=True):
    """The drivers of one container, by name, with their options."""

    storage: str
    network: str
    cgroup: str
    namespace: str
    runtime: str = "native"  # what containers had that were made before there was a choice
    storage_options: Mapping[str, str] = field(default_factory=dict)
    network_options: Mapping[str, str] = field(default_factory=dict)
    cgroup_options: Mapping[str, str] = field(default_factory=dict)
    namespace_options: Mapping[str, str] = field(default_factory=dict)
    runtime_options: Mapping[str, str] = field(default_factory=dict)
    network_name: str = ""  # of a network somebody made; empty: the driver's own, which is named like it

    @property
    def joins(self) -> str:
        """The name of the network."""
        return self.network_name or self.network


class ContainerSpec(Struct, frozen=True, kw_only=True):
    """Everything a caller can ask of a container; meanings as in docker's reference of `docker run`."""

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None  # None: the image's; ("",): none; see `command_line`
    name: str | None = None  # None: one is invented
    env: tuple[str, ...] = ()  # KEY=value; KEY alone takes the image's variable away
    working_dir: GuestPath | None = None
    user: str | None = None  # name|uid[:group|gid]
    groups: tuple[str, ...] = ()  # --group-add
    hostname: str | None = None
    domainname: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    tty: bool = False
    interactive: bool = False  # keep stdin open
    init: bool = False
    auto_remove: bool = False
    read_only: bool = False
    mounts: tuple[VolumeMount, ...] = ()
    shm_size_bytes: int = 64 << 20
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()  # --device-cgroup-rule "c 42:* rmw"
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    seccomp: str = "default"  # default, unconfined, or the JSON text of a profile
    unmasked: bool = False  # --security-opt systempaths=unconfined
    rlimits: tuple[Rlimit, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int | None = None
    stop_signal: str | None = None
    stop_timeout_s: int | None = None
    ports: tuple[Port, ...] = ()
    publish_all: bool = False
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()  # name:ip, ip may be host-gateway
    ip: str | None = None
    mac_address: str | None = None
    limits: Limits = field(default_factory=Limits)  # devices is filled in by the engine
    userns: str = ""  # "", host, auto, <uid>:<gid>:<size>
    # pid ipc uts net cgroup time: private, host, container:<name>
    modes: Mapping[str, str] = field(default_factory=dict)
    pull: str = "missing"
    storage: str | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    network: str | None = None  # a network's name, or a driver's
    network_options: Mapping[str, str] = field(default_factory=dict)
    cgroup_options: Mapping[str, str] = field(default_factory=dict)
    namespace_options: Mapping[str, str] = field(default_factory=dict)
    runtime_options: Mapping[str, str] = field(default_factory=dict)
    cgroup: str | None = None
    cgroup_parent: str = "plugengine"
    namespace: str | None = None
    runtime: str | None = None


class CommandLine(Struct, frozen=True):
    """What a container runs, in the two parts docker knows."""

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        """The program and its arguments; empty where neither the caller nor the image says what to run."""
        return (*self.entrypoint, *self.cmd)


def command_line(spec: ContainerSpec, config: ImageConfig) -> CommandLine:
    """Combine the caller's words and the image's as docker does.

    An entrypoint of the caller's drops the image's command, and so does an empty word (`--entrypoint ""`), which stands
    for no entrypoint at all. An empty list, which only the library can give, drops the image's entrypoint alone.
    """
    if spec.entrypoint:
        return CommandLine(() if spec.entrypoint == ("",) else spec.entrypoint, spec.command)
    return CommandLine(config.entrypoint if spec.entrypoint is None else (), spec.command or config.cmd)


def required_argv(spec: ContainerSpec, config: ImageConfig) -> tuple[str, ...]:
    """Return the program and its arguments.

    Raises:
        UsageError: Neither the caller nor the image says what to run.
    """
    argv = command_line(spec, config).argv
    if not argv:
        raise UsageError(f"run {spec.image}: no command given, and the image has none")
    return argv


def variables(spec: ContainerSpec, config: ImageConfig) -> tuple[str, ...]:
    """Return the variables of a container: the caller's, then those of the image they do not replace or take away."""
    given = {pair.partition("=")[0] for pair in spec.env}
    return (*spec.env, *(pair for pair in config.env if pair.partition("=")[0] not in given))


class ExecSpec(Struct, frozen=True, kw_only=True):
    """Everything a caller can ask of `exec`; meanings as in docker's reference of `docker exec`."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()  # KEY=value
    working_dir: GuestPath | None = None
    user: str | None = None
    tty: bool = False
    interactive: bool = False
    privileged: bool = False
    detach: bool = False
