"""The contract between the engine and its drivers: every hook of the four kinds, and the life-cycle hooks.

Rules that hold for every driver
    * A driver is a module (or object) with these hooks, marked with `hookimpl`, named by an entry point of the group
      `plugengine.storage`, `.network`, `.cgroup` or `.namespace`. The entry point's name is the driver's name.
    * Verbs are idempotent. Making is strict: on failure nothing is left behind and `DriverError` is raised.
      Unmaking succeeds on what is already gone, tries everything, and reports at the end.
    * A record is a JSON object; it alone (with the request) is enough to unmake after a reboot.
    * A capability not claimed in `DriverInfo` raises `NotSupportedError`; it is never a silent no-op.
    * Hooks run as root, in the container's monitor (one thread) unless said otherwise, and must not change the
      process: no chdir, umask, setns, signal handler or stray descriptor survives a call.
    * `*_info`, `*_probe`, `pe_cgroup_settings`, `pe_namespace_plan` and `pe_storage_mounts` change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pluggy

from plugengine.model import (
    Attachment,
    CgroupEntry,
    CgroupRequest,
    CgroupStats,
    Change,
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
    Port,
    Record,
    Rootfs,
    Settings,
    StorageRequest,
    Usage,
)

PROJECT: Final = "plugengine"
API_VERSION: Final = (1, 0)
# What a driver may import besides the names of `plugengine` itself; all else changes without notice.
PUBLIC_MODULES: Final = ("hookspecs", "model", "errors", "kernel", "trees", "cgroups", "mounts", "testing")

hookspec: Final[pluggy.HookspecMarker] = pluggy.HookspecMarker(PROJECT)
hookimpl: Final[pluggy.HookimplMarker] = pluggy.HookimplMarker(PROJECT)


class StorageSpec:
    """Storage: the root filesystem of a container, from a chain of layers."""

    @hookspec(firstresult=True)
    def pe_storage_info(self) -> DriverInfo | None:
        """Return name-independent facts about the driver; pure, cheap, no imports beyond the module's own."""

    @hookspec(firstresult=True)
    def pe_storage_probe(self, host: Host) -> Iterable[str] | None:
        """Return the reasons, each one a sentence a person can act on, why this host cannot run it; none: supported."""

    @hookspec(firstresult=True)
    def pe_storage_prepare(self, request: StorageRequest) -> Record | None:
        """Make the writable layer below `request.directory`; called once when the container is created.

        Returns: the record handed to every later verb. Raises: DriverError, UsageError for a bad option.
        Undone by: `pe_storage_remove`.
        """

    @hookspec(firstresult=True)
    def pe_storage_mounts(self, request: StorageRequest, record: Record) -> Rootfs | None:
        """Return how the root filesystem comes to be at `request.target`; called before each start; pure.

        The core performs the mounts in its monitor's private mount namespace and starts the server, and undoes both.
        The record is what `prepare` returned; empty for a dry run, where nothing was prepared.
        """

    @hookspec(firstresult=True)
    def pe_storage_changes(self, request: StorageRequest, record: Record) -> Iterable[Change] | None:
        """Yield what differs from the chain, from the writable layer alone (claims NATIVE_DIFF)."""

    @hookspec(firstresult=True)
    def pe_storage_upper(self, request: StorageRequest, record: Record) -> HostPath | None:
        """Return the directory that holds the changes in overlay form (0:0 whiteouts, trusted.overlay.opaque).

        Needed for commit and diff (claims NATIVE_DIFF); owners are as stored, mapped if `user_map` was given.
        """

    @hookspec(firstresult=True)
    def pe_storage_usage(self, request: StorageRequest, record: Record) -> Usage | None:
        """Return the space of the writable layer."""

    @hookspec(firstresult=True)
    def pe_storage_stats(self, request: StorageRequest, record: Record) -> Mapping[str, int] | None:
        """Return counters of the running server since its start, by names of the driver's own; optional.

        Called, in any process, for a running container that has a server (`Rootfs.server`). Shown by `pe inspect`
        and `pe stats --format json` as DriverStats. Returns: empty if the server has just ended.
        """

    @hookspec(firstresult=True)
    def pe_storage_remove(self, request: StorageRequest, record: Record | None) -> bool | None:
        """Remove what `prepare` made; the record is None when prepare never returned. Returns True."""

    @hookspec(firstresult=True)
    def pe_storage_gc(self, host: Host, valid_ids: frozenset[str], shared: HostPath) -> Iterable[str] | None:
        """Remove what belongs to no container of `valid_ids`; return a line for each thing removed.

        `shared` is that of `StorageRequest`: on the filesystem of the containers' directories, made by the driver when
        it first needs it, parents too; empty: nothing is shared. Called by `pe system check --repair`, while containers
        are made and removed, and after layers were removed, if `shared` exists: nothing made of a layer that is gone
        may stay there.
        """


class NetworkSpec:
    """Network: what is inside a container's network namespace, and how it reaches out."""

    @hookspec(firstresult=True)
    def pe_network_info(self) -> DriverInfo | None:
        """Return facts about the driver; pure."""

    @hookspec(firstresult=True)
    def pe_network_probe(self, host: Host) -> Iterable[str] | None:
        """Return the reasons why this host cannot run it; none: supported."""

    @hookspec(firstresult=True)
    def pe_network_create(self, network: Network) -> Record | None:
        """Make the host's side of a network: bridge, rules.

        Called before every attach, so it must be idempotent and quick when all is there, and mend what is missing
        (after a reboot, a firewall reload).

        Undone by: `pe_network_remove`, once no container is attached.
        """

    @hookspec(firstresult=True)
    def pe_network_remove(self, network: Network, record: Record) -> bool | None:
        """Remove the host's side. Returns True."""

    @hookspec(firstresult=True)
    def pe_network_attach(self, request: NetworkRequest) -> Attachment | None:
        """Connect a container's network namespace; called after it exists and before the command starts.

        Args: `request.netns` is an open descriptor, lent for the call; loopback is the driver's to bring up.
        Raises: DriverError (all of it removed again); ConflictError when a port is taken, naming the port.
        Undone by: `pe_network_detach`.
        """

    @hookspec(firstresult=True)
    def pe_network_detach(self, network: Network, container_id: str, attachment: Attachment | None) -> bool | None:
        """Remove everything `attach` made on the host. Returns True.

        Also when the namespace is gone, and (with attachment None) when attach was interrupted: the driver finds it by
        the container's id.
        """

    @hookspec(firstresult=True)
    def pe_network_ports(
        self, network: Network, container_id: str, attachment: Attachment, ports: tuple[Port, ...]
    ) -> Attachment | None:
        """Replace the published ports of a running container (claims PORTS)."""

    @hookspec(firstresult=True)
    def pe_network_stats(self, attachment: Attachment, netns: int) -> NetworkStats | None:
        """Return counters, as the container sees them."""

    @hookspec(firstresult=True)
    def pe_network_gc(
        self, host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]
    ) -> Iterable[str] | None:
        """Remove links and rules that belong to no container of `valid_ids` and no network of `networks`."""


class CgroupSpec:
    """Cgroup: resource limits, accounting, freezing and killing of a container as a whole."""

    @hookspec(firstresult=True)
    def pe_cgroup_info(self) -> DriverInfo | None:
        """Return facts about the driver; pure."""

    @hookspec(firstresult=True)
    def pe_cgroup_probe(self, host: Host) -> Iterable[str] | None:
        """Return the reasons why this host cannot run it; none: supported."""

    @hookspec(firstresult=True)
    def pe_cgroup_settings(self, limits: Limits, request: CgroupRequest) -> Settings | None:
        """Return the writes for these limits on this host, and what it cannot hold; reads the host, writes nothing."""

    @hookspec(firstresult=True)
    def pe_cgroup_create(self, request: CgroupRequest) -> Record | None:
        """Make the group in every hierarchy in use. Undone by: `pe_cgroup_remove`."""

    @hookspec(firstresult=True)
    def pe_cgroup_apply(self, record: Record, settings: Settings, limits: Limits) -> bool | None:
        """Write the settings (and load the device program, where that is how devices are limited); also for update.

        Raises: DriverError naming the file, the value and the reason.
        """

    @hookspec(firstresult=True)
    def pe_cgroup_join(self, record: Record, pid: int) -> bool | None:
        """Move one process (host pid) into the group."""

    @hookspec(firstresult=True)
    def pe_cgroup_entry(self, record: Record) -> CgroupEntry | None:
        """Return how a process that is cloned for the group enters by itself, in place of `pe_cgroup_join`.

        The engine opens the files before the clone and the new process writes to them first thing, before it unshares
        its cgroup namespace. None, or a process that runs already: `pe_cgroup_join`.
        """

    @hookspec(firstresult=True)
    def pe_cgroup_pids(self, record: Record) -> tuple[int, ...] | None:
        """Return the host pids of all processes in the group and its descendants."""

    @hookspec(firstresult=True)
    def pe_cgroup_stats(self, record: Record) -> CgroupStats | None:
        """Return the accounting now."""

    @hookspec(firstresult=True)
    def pe_cgroup_freeze(self, record: Record, frozen: bool) -> bool | None:  # noqa: FBT001 - pluggy passes no keyword-only ones
        """Freeze or thaw; returns when the state is reached (claims FREEZE)."""

    @hookspec(firstresult=True)
    def pe_cgroup_kill(self, record: Record) -> bool | None:
        """SIGKILL every process of the group, also a forking or frozen one; returns when none is left."""

    @hookspec(firstresult=True)
    def pe_cgroup_mounts(self, record: Record, target: HostPath) -> tuple[Mount, ...] | None:
        """Return the read-only mounts that give the guest its /sys/fs/cgroup, performed inside its cgroup namespace."""

    @hookspec(firstresult=True)
    def pe_cgroup_remove(self, record: Record) -> bool | None:
        """Remove the group everywhere; it is empty by then. Returns True."""

    @hookspec(firstresult=True)
    def pe_cgroup_gc(self, host: Host, parent: str, valid_ids: frozenset[str]) -> Iterable[str] | None:
        """Kill and remove groups below `parent` whose owner is `host.root` and that belong to no one of `valid_ids`.

        Groups of other engines, and those this driver did not make, are left alone.
        """


class NamespaceSpec:
    """Namespace: which namespaces a container gets, shares or joins."""

    @hookspec(firstresult=True)
    def pe_namespace_info(self) -> DriverInfo | None:
        """Return facts about the driver; pure."""

    @hookspec(firstresult=True)
    def pe_namespace_probe(self, host: Host) -> Iterable[str] | None:
        """Return the reasons why this host cannot run it; none: supported."""

    @hookspec(firstresult=True)
    def pe_namespace_plan(self, request: NamespaceRequest) -> NamespacePlan | None:
        """Return clone flags, namespaces to join and maps; pure."""


class LifecycleSpec:
    """Observers and extensions (entry-point group `plugengine.hooks`)."""

    @hookspec
    def pe_event(self, event: Event) -> None:
        """Be told what happens; called in order, in the process where it happens; exceptions are logged, not raised."""

    @hookspec
    def pe_image_sources(self) -> Mapping[str, str] | None:
        """Return image sources: scheme (the word before ":") to "module:function"; see plugengine.images.sources."""

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
    "hooks": LifecycleSpec,
}
