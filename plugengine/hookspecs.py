"""The contract between the engine and its drivers: every hook of the five kinds, and the life-cycle hooks.

Rules that hold for every driver
    * A driver is a module (or object) with these hooks, marked with `hookimpl`, named by an entry point of the group
      `plugengine.storage`, `.network`, `.cgroup`, `.namespace` or `.runtime`. The entry point's name is the driver's.
    * Verbs are idempotent. Making is strict: on failure nothing is left behind and `DriverError` is raised.
      Unmaking takes the same request and the record that making returned; None: making never returned, and the
      request's id must be enough to find what it left. It succeeds on what is gone, tries everything, and then reports.
    * A record is a JSON object; with the request it is enough to unmake after a reboot.
    * A capability not claimed in `DriverInfo` raises `NotSupportedError`; it is never a silent no-op.
    * Verbs that make or unmake return nothing, unless they return what they made.
    * Each hook is marked with who must have it (every driver unless it is optional or for a capability), the process
      that calls it, the seconds it may take (60 if not said), and whether the container runs meanwhile (None: either).
    * Hooks run as root, and must not change the process: no chdir, umask, setns, signal handler or stray descriptor
      survives a call. In the caller's process there may be other threads, and calls for other containers in them.
    * `*_info`, `*_probe`, `pe_cgroup_settings`, `pe_cgroup_mounts`, `pe_namespace_plan` and `pe_storage_mounts` change
      nothing: a run is planned from their answers before anything of it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

import pluggy

from plugengine.bundle import Bundle, RuntimeProcess, RuntimeRequest, RuntimeState, Spawn
from plugengine.bundle import Process as GuestProcess
from plugengine.hookmarks import BULK_S, PROJECT, QUICK_S, Process, hook
from plugengine.model import (
    Attachment,
    Capability,
    CgroupEntry,
    CgroupRequest,
    CgroupStats,
    DriverInfo,
    Event,
    Host,
    HostPath,
    Limits,
    Mount,
    NamespacePlan,
    NamespaceRequest,
    Network,
    NetworkRequest,
    NetworkStats,
    Record,
    Rootfs,
    Settings,
    StorageRequest,
    Upper,
    Usage,
)

API_VERSION: Final = (1, 0)
# What a driver may import besides the names of `plugengine` itself; all else changes without notice.
PUBLIC_MODULES: Final = (
    "bundle",
    "cgroups",
    "errors",
    "hookspecs",
    "kernel",
    "model",
    "mounts",
    "namespaces",
    "quantities",
    "security",
    "testing",
    "trees",
)

hookspec: Final[pluggy.HookspecMarker] = pluggy.HookspecMarker(PROJECT)
hookimpl: Final[pluggy.HookimplMarker] = pluggy.HookimplMarker(PROJECT)

CALLER: Final = Process.CALLER
MONITOR: Final = Process.MONITOR
EITHER: Final = CALLER | MONITOR


class StorageSpec(Protocol):
    """Storage: the root filesystem of a container, from a chain of layers."""

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_storage_info(self) -> DriverInfo:
        """Return name-independent facts about the driver; pure, cheap, no imports beyond the module's own."""

    @hook(runs=CALLER, within_s=QUICK_S, running=None)
    def pe_storage_probe(self, host: Host) -> Iterable[str]:
        """Return the reasons, each one a sentence a person can act on, why this host cannot run it; none: supported."""

    @hook(runs=CALLER, within_s=BULK_S)
    def pe_storage_prepare(self, request: StorageRequest) -> Record:
        """Make the writable layer below `request.directory`; called once when the container is created.

        Returns: the record handed to every later verb. Raises: DriverError, UsageError for a bad option.
        Undone by: `pe_storage_remove`.
        """

    @hook(runs=CALLER, within_s=QUICK_S)
    def pe_storage_mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        """Return how the root filesystem comes to be at `request.target`; called to plan each start; pure.

        The core performs the mounts in its monitor's private mount namespace and starts the server, and undoes both.
        The record is what `prepare` returned; empty while a run is planned, when nothing is prepared yet: the same
        mounts and server then, as far as `--dry-run` shows them.
        """

    @hook(Capability.NATIVE_DIFF, runs=CALLER, within_s=QUICK_S, running=None)
    def pe_storage_upper(self, request: StorageRequest, record: Record) -> Upper:
        """Return the directory that holds the changes in overlay form, and whose owners are in it.

        What `pe diff` and layers are made of; without the claim the core compares the container's tree with the chain.
        """

    @hook(runs=CALLER, within_s=BULK_S, running=None)
    def pe_storage_usage(self, request: StorageRequest, record: Record) -> Usage:
        """Return the space of the writable layer."""

    @hook(runs=CALLER, within_s=QUICK_S, running=True, optional=True)
    def pe_storage_stats(self, request: StorageRequest, record: Record) -> Mapping[str, int]:
        """Return counters of the container's server (`Rootfs.server`) since its start, by names of the driver's own.

        Shown by `pe inspect` and `pe stats --format json` as DriverStats. Returns: empty if it has just ended.
        """

    @hook(runs=EITHER, within_s=QUICK_S, running=None, optional=True)
    def pe_storage_upgrade(self, record: Record, version: str) -> Record:
        """Return a record that `version` wrote as this version reads it; pure; called before all verbs that get it."""

    @hook(runs=EITHER, within_s=BULK_S)
    def pe_storage_remove(self, request: StorageRequest, record: Record | None) -> None:
        """Remove what `prepare` made."""

    @hook(runs=CALLER, within_s=BULK_S, running=None, optional=True)
    def pe_storage_gc(self, host: Host, valid_ids: frozenset[str], shared: HostPath) -> Iterable[str]:
        """Remove what belongs to no container of `valid_ids`; return a line for each thing removed.

        `shared` is that of `StorageRequest`: on the filesystem of the containers' directories, made by the driver when
        it first needs it, parents too; empty: nothing is shared. Called by `pe system check --repair`, while containers
        are made and removed, and after layers were removed, if `shared` exists: nothing made of a layer that is gone
        may stay there.
        """


class NetworkSpec(Protocol):
    """Network: what is inside a container's network namespace, and how it reaches out."""

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_network_info(self) -> DriverInfo:
        """Return facts about the driver; pure."""

    @hook(runs=CALLER, within_s=QUICK_S, running=None)
    def pe_network_probe(self, host: Host) -> Iterable[str]:
        """Return the reasons why this host cannot run it; none: supported."""

    @hook(runs=EITHER, running=None, optional=True)
    def pe_network_create(self, network: Network) -> Record:
        """Make the host's side of a network: bridge, rules.

        Called before every attach, so it must be idempotent and quick when all is there, and repair what is missing
        (after a reboot, a firewall reload).

        Undone by: `pe_network_remove`, once no container is attached.
        """

    @hook(runs=EITHER, running=None, optional=True)
    def pe_network_remove(self, network: Network, record: Record | None) -> None:
        """Remove the host's side."""

    @hook(runs=MONITOR)
    def pe_network_attach(self, request: NetworkRequest) -> Attachment:
        """Connect a container's network namespace; called after it exists and before the command starts.

        Args: `request.netns` is an open descriptor, lent for the call; loopback is the driver's to bring up.
        Raises: DriverError (all of it removed again); ConflictError when a port is taken, naming the port.
        Undone by: `pe_network_detach`.
        """

    @hook(runs=EITHER)
    def pe_network_detach(self, request: NetworkRequest, attachment: Attachment | None) -> None:
        """Remove everything `attach` made on the host, also when the namespace is gone."""

    @hook(Capability.PORTS, runs=CALLER, running=True)
    def pe_network_ports(self, request: NetworkRequest, attachment: Attachment) -> Attachment:
        """Publish the ports of the request in place of those of the attachment."""

    @hook(runs=CALLER, within_s=QUICK_S, running=True, optional=True)
    def pe_network_stats(self, request: NetworkRequest, attachment: Attachment) -> NetworkStats:
        """Return counters, as the container sees them."""

    @hook(runs=CALLER, running=None, optional=True)
    def pe_network_gc(self, host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> Iterable[str]:
        """Remove links and rules that belong to no container of `valid_ids` and no network of `networks`.

        Only those made for networks of this engine, whose `owner` is `host.root`: others share the host.
        """


class CgroupSpec(Protocol):
    """Cgroup: resource limits, accounting, freezing and killing of a container as a whole."""

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_cgroup_info(self) -> DriverInfo:
        """Return facts about the driver; pure."""

    @hook(runs=CALLER, within_s=QUICK_S, running=None)
    def pe_cgroup_probe(self, host: Host) -> Iterable[str]:
        """Return the reasons why this host cannot run it; none: supported."""

    @hook(runs=CALLER, within_s=QUICK_S)
    def pe_cgroup_settings(self, limits: Limits, request: CgroupRequest) -> Settings:
        """Return the writes for these limits on this host, and what it cannot enforce: reads only."""

    @hook(runs=MONITOR)
    def pe_cgroup_create(self, request: CgroupRequest) -> Record:
        """Make the group in every hierarchy in use. Undone by: `pe_cgroup_remove`."""

    @hook(runs=MONITOR)
    def pe_cgroup_apply(self, record: Record, settings: Settings, limits: Limits) -> None:
        """Write the settings (and load the device program, where that is how devices are limited); also for update.

        Raises: DriverError naming the file, the value and the reason.
        """

    @hook(runs=MONITOR, within_s=QUICK_S, running=None)
    def pe_cgroup_entry(self, record: Record) -> CgroupEntry:
        """Return how a process that is made for the group enters by itself.

        The runtime opens the files before it makes the process, which writes to them first thing, before it unshares
        its cgroup namespace.
        """

    @hook(runs=CALLER, within_s=QUICK_S, running=True)
    def pe_cgroup_pids(self, record: Record) -> tuple[int, ...]:
        """Return the host pids of all processes in the group and its descendants."""

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_cgroup_stats(self, record: Record) -> CgroupStats:
        """Return the accounting now; called when the container has ended, too."""

    @hook(Capability.FREEZE, runs=CALLER, running=True)
    def pe_cgroup_freeze(self, record: Record, frozen: bool) -> None:  # noqa: FBT001 - pluggy passes no keyword-only ones
        """Freeze or thaw; returns when the state is reached."""

    @hook(runs=EITHER, running=None)
    def pe_cgroup_kill(self, request: CgroupRequest, record: Record | None) -> None:
        """SIGKILL every process of the group, also a forking or frozen one; returns when none is left."""

    @hook(runs=CALLER, within_s=QUICK_S)
    def pe_cgroup_mounts(self, request: CgroupRequest, target: HostPath) -> tuple[Mount, ...]:
        """Return the read-only mounts that give the guest its /sys/fs/cgroup; before the group is made; pure.

        They are performed inside the guest's cgroup namespace, whose root is its own group.
        """

    @hook(runs=EITHER)
    def pe_cgroup_remove(self, request: CgroupRequest, record: Record | None) -> None:
        """Remove the group everywhere; it is empty by then."""

    @hook(runs=CALLER, running=None)
    def pe_cgroup_gc(self, host: Host, parent: str, valid_ids: frozenset[str]) -> Iterable[str]:
        """Kill and remove groups below `parent` whose owner is `host.root` and that belong to no one of `valid_ids`.

        Groups of other engines, and those this driver did not make, are left alone.
        """


class NamespaceSpec(Protocol):
    """Namespace: which namespaces a container gets, shares or joins."""

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_namespace_info(self) -> DriverInfo:
        """Return facts about the driver; pure."""

    @hook(runs=CALLER, within_s=QUICK_S, running=None)
    def pe_namespace_probe(self, host: Host) -> Iterable[str]:
        """Return the reasons why this host cannot run it; none: supported."""

    @hook(runs=CALLER, within_s=QUICK_S)
    def pe_namespace_plan(self, request: NamespaceRequest) -> NamespacePlan:
        """Return clone flags, namespaces to join and maps; pure."""


class RuntimeSpec(Protocol):
    """Runtime: makes the processes of a container: the first one, held at a gate until all is ready, and those of exec.

    What an OCI runtime program does with create, start, exec, state, kill and delete on a bundle (runtime-spec,
    runtime.md) can stand behind it. The caller is a child subreaper and alone in its process group: it reaps what the
    runtime made, which may be its child or an orphan below it, and kills it when a start is taken back.
    """

    @hook(runs=EITHER, within_s=QUICK_S, running=None)
    def pe_runtime_info(self) -> DriverInfo:
        """Return facts about the driver; pure."""

    @hook(runs=CALLER, within_s=QUICK_S, running=None)
    def pe_runtime_probe(self, host: Host) -> Iterable[str]:
        """Return the reasons why this host cannot run it; none: supported."""

    @hook(runs=MONITOR)
    def pe_runtime_create(self, request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
        """Make the first process and hold it: in its namespaces and its control group, but not yet the command.

        Its network namespace is there when this returns, as /proc/PID/ns/net; the files the engine mounts inside
        (/etc/hosts and others) get their content before `start`. Called in the container's own mount namespace of the
        host, where `bundle.root` is mounted.

        Undone by: `pe_runtime_delete`.
        """

    @hook(runs=MONITOR)
    def pe_runtime_start(self, request: RuntimeRequest, record: Record) -> RuntimeProcess:
        """Let the first process go; return when it has become the command. Called in the process that called create.

        Returns: the same process, with its terminal if it has one only now, and warnings; `record` is not looked at.
        Raises: CommandNotFoundError, NotExecutableError for the command; DriverError for anything before it.
        """

    @hook(runs=MONITOR, running=True)
    def pe_runtime_exec(
        self, request: RuntimeRequest, record: Record, process: GuestProcess, spawn: Spawn
    ) -> RuntimeProcess:
        """Run one more process in the container; return when it has become the command. Raises: as `start`."""

    @hook(runs=CALLER, within_s=QUICK_S, running=True)
    def pe_runtime_state(self, request: RuntimeRequest, record: Record) -> RuntimeState:
        """Return where the first process is; of a container that is gone: stopped."""

    @hook(runs=EITHER, within_s=QUICK_S, running=True)
    def pe_runtime_kill(self, request: RuntimeRequest, record: Record, signal: int) -> None:
        """Send a signal to the first process. Raises: ConflictError: it has ended."""

    @hook(runs=EITHER)
    def pe_runtime_delete(self, request: RuntimeRequest, record: Record | None) -> None:
        """Remove what `create` made, and end the first process if it still waits at its gate."""

    @hook(runs=CALLER, running=None, optional=True)
    def pe_runtime_gc(self, host: Host, valid_ids: frozenset[str], shared: HostPath) -> Iterable[str]:
        """Remove what belongs to no container of `valid_ids`, in `shared` too; return a line for each thing removed."""


class LifecycleSpec:
    """Observers and extensions (entry-point group `plugengine.hooks`)."""

    @hookspec
    def pe_event(self, event: Event) -> None:
        """Be told what happens; called in order, in the process where it happens; exceptions are logged, not raised."""

    @hookspec
    def pe_image_sources(self) -> Mapping[str, str] | None:
        """Return image sources: scheme (the word before ":") to "module:function", imported when it is used.

        The empty word is the default, for names without a scheme. What a source is told: docs/image-sources.md.
        """

    @hookspec
    def pe_commands(self) -> Mapping[str, str] | None:
        """Return extra commands: name to "module:attribute" of a click command; imported only when called."""

    @hookspec
    def pe_bench_workloads(self) -> Mapping[str, str] | None:
        """Return workloads for `pe bench storage`: name to "module:attribute"; see plugengine.bench.workload."""


SPECS: Final[Mapping[str, type]] = {
    "storage": StorageSpec,
    "network": NetworkSpec,
    "cgroup": CgroupSpec,
    "namespace": NamespaceSpec,
    "runtime": RuntimeSpec,
    "hooks": LifecycleSpec,
}
