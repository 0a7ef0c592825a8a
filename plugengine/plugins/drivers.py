"""Typed wrappers around hook calls: results are checked at the border, foreign exceptions become `DriverError`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from plugengine.bundle import Bundle, Process, RuntimeProcess, RuntimeRequest, RuntimeState, Spawn
from plugengine.errors import (
    ConflictError,
    DriverError,
    DriverLoadError,
    NoSpaceError,
    NotSupportedError,
    PlugengineError,
)
from plugengine.model import (
    Attachment,
    Capability,
    CgroupEntry,
    CgroupRequest,
    CgroupStats,
    DriverInfo,
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
from plugengine.plugins.deadlines import Degraded, Expired, Note, seconds, within
from plugengine.plugins.options import defaults, written
from plugengine.plugins.registry import Entry, Registry, new_manager, register

if TYPE_CHECKING:
    import pluggy
    from pluggy import HookCaller

_T = TypeVar("_T")
_NOWHERE: Final = HostPath("")
# Verbs for which an option that cannot be understood is an error; nothing must keep what is there from being unmade.
_MAKING: Final = frozenset({"prepare", "mounts", "create", "attach", "ports", "settings", "plan", "start", "exec"})
# What results hold that are no values of the contract, by their type or by the verb that returns them.
_SHAPES: Final[Mapping[Any, Any]] = {
    dict: dict[str, Any],
    Mapping: dict[str, int],
    "pids": tuple[int, ...],
    "mounts": tuple[Mount, ...],
}


class Driver:
    """One driver of a plugin manager; subclasses add the verbs of their kind.

    Args:
        manager: Holds it.
        name: Of the driver.
        registry: Where it was found; None: nothing is known of where it comes from, and nothing kept about its calls.
    """

    group = ""

    def __init__(self, manager: pluggy.PluginManager, name: str, registry: Registry | None = None) -> None:
        self._hook = manager.hook
        self._registry = registry
        self._entry: Entry | None = None if registry is None else registry.find(self.group, name)
        self._notes: Degraded = Degraded(None) if registry is None else registry.degraded
        self.name = name
        self.source: str = "" if self._entry is None else self._entry.source  # "distribution version"
        self.degraded = self._notes.find(self.group, name, self.source)
        self.whose: str = f"{self.group} driver {name}"
        self.info: DriverInfo = self._ask("info", DriverInfo)
        try:
            self._defaults = defaults(self.info.options)
        except ValueError as exc:
            raise DriverLoadError(
                f"{self.whose}: default of an option: {exc}", hint=f"a bug of {self._culprit}"
            ) from exc

    def probe(self, host: Host) -> tuple[str, ...]:
        """Return the reasons why this host cannot run it; empty: supported."""
        reasons = self._try("probe", Iterable, host=host)
        return tuple(str(reason) for reason in reasons or ())

    def require(self, capability: Capability) -> None:
        """Raise NotSupportedError unless the driver claims the capability."""
        if capability not in self.info.capabilities:
            raise NotSupportedError(f"{self.group} driver {self.name}: does not claim {capability.value}")

    def _try(self, verb: str, expected: type[Any], /, **arguments: Any) -> Any:
        hook: Callable[..., Any] = getattr(self._hook, f"pe_{self.group}_{verb}")
        where = f"{self.whose}: {verb}"
        arguments = self._with_values(verb, arguments)
        limit_s = seconds(self.group, verb)

        def call() -> Any:
            found = hook(**arguments)
            # What a generator does counts, too.
            return tuple(found) if expected is Iterable and found is not None else found

        try:
            with self._calling(verb):
                result = within(limit_s, call)
        except PlugengineError:
            raise
        except Expired as exc:
            raise self._hangs(verb, limit_s) from exc
        except OSError as exc:
            kind = NoSpaceError if exc.errno in (28, 122) else DriverError  # ENOSPC, EDQUOT
            raise kind(f"{where}: {exc.filename or ''}{': ' if exc.filename else ''}{exc.strerror}") from exc
        except (Exception, SystemExit) as exc:
            hint = f"a bug of {self._culprit}; --debug shows where"
            writer = getattr(arguments.get("request"), "written_by", "")
            if writer not in ("", self.source):
                hint = (
                    f"{writer} has made the container, and {self._culprit} cannot read its record; install the former"
                )
            raise DriverError(f"{where}: {type(exc).__name__}: {exc}", hint=hint) from exc
        if self.degraded is not None and self.degraded.verb == verb:
            self._notes.drop(self.group, self.name)
            self.degraded = None
        if result is not None:
            self._check(verb, result, expected)
        return result

    def _with_values(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with options as values of their kinds; see `Option`."""
        lenient = verb not in _MAKING
        changed: dict[str, Any] = {}
        for name, value in arguments.items():
            if isinstance(value, Network):
                changed[name] = self._network(value, lenient=lenient)
            elif isinstance(value, NetworkRequest):
                network = self._network(value.network, lenient=lenient)
                own = written(self.info.options, value.options, whose=self.whose, lenient=lenient)
                changed[name] = msgspec.structs.replace(value, network=network, options={**network.options, **own})
            elif name == "networks":
                changed[name] = tuple(self._network(each, lenient=True) for each in value)
            elif name == "request":
                own = written(self.info.options, value.options, whose=self.whose, lenient=lenient)
                changed[name] = msgspec.structs.replace(value, options={**self._defaults, **own})
        return {**arguments, **changed} if changed else arguments

    def _network(self, network: Network, *, lenient: bool) -> Network:
        own = written(self.info.options, network.options, whose=f"network {network.name}", lenient=lenient)
        return msgspec.structs.replace(network, options={**self._defaults, **own})

    def _check(self, verb: str, result: Any, expected: type[Any]) -> None:
        """Refuse a result that is not what the contract says, before it is taken for what it is not."""
        fault = ""
        if not isinstance(result, expected):
            fault = f"returned {type(result).__name__}, not {expected.__name__}"
        shape = expected if issubclass(expected, Struct) else _SHAPES.get(verb if expected is tuple else expected)
        if not fault and shape is not None:
            try:
                msgspec.convert(msgspec.to_builtins(result), shape)
            except (TypeError, msgspec.ValidationError) as exc:
                fault = f"returned what is no {'JSON' if expected is dict else expected.__name__}: {exc}"
        if fault:
            raise DriverLoadError(f"{self.group} driver {self.name}: {verb}: {fault}", hint=f"a bug of {self._culprit}")

    def _calling(self, verb: str) -> AbstractContextManager[None]:
        if self._registry is None or self._entry is None:
            return nullcontext()
        return self._registry.calling(self._entry, verb)

    @property
    def _culprit(self) -> str:
        return self.source or f"the driver {self.name}"

    def _hangs(self, verb: str, limit_s: float) -> DriverError:
        note = Note(kind=self.group, name=self.name, source=self.source, verb=verb, after_s=limit_s)
        self._notes.add(note)
        self.degraded = note
        return DriverError(
            f"{self.group} driver {self.name}: {note.sentence}",
            hint=f"a fault of {self._culprit}, which pe drivers shows as degraded; where so long is right, "
            "set PLUGENGINE_HOOK_TIMEOUT to more seconds",
        )

    def has(self, verb: str) -> bool:
        """Tell whether the driver has the hook of a verb."""
        hook: HookCaller = getattr(self._hook, f"pe_{self.group}_{verb}")
        return bool(hook.get_hookimpls())

    def _do(self, verb: str, /, **arguments: Any) -> None:
        """Call a hook that returns nothing."""
        self._try(verb, object, **arguments)

    def _ask(self, verb: str, expected: type[_T], /, **arguments: Any) -> _T:
        """Call a hook that returns a value."""
        result: _T | None = self._try(verb, expected, **arguments)
        if result is None:
            where = f"{self.group} driver {self.name}: {verb}"
            raise DriverLoadError(f"{where}: returned None, not {expected.__name__}", hint=f"a bug of {self._culprit}")
        return result

    def _record(self, verb: str, /, **arguments: Any) -> Record:
        record: Record = self._ask(verb, dict, **arguments)
        return record


class StorageDriver(Driver):
    """See `hookspecs.StorageSpec`."""

    group = "storage"

    def prepare(self, request: StorageRequest) -> Record:
        """Make the writable layer."""
        return self._record("prepare", request=request)

    def mounts(self, request: StorageRequest, record: Record) -> Rootfs:
        """Return how the root filesystem comes to be."""
        return self._ask("mounts", Rootfs, **self._read(request, record))

    def upper(self, request: StorageRequest, record: Record) -> Upper:
        """Return the directory that holds the changes in overlay form."""
        self.require(Capability.NATIVE_DIFF)
        return self._ask("upper", Upper, **self._read(request, record))

    def usage(self, request: StorageRequest, record: Record) -> Usage:
        """Return the space of the writable layer."""
        return self._ask("usage", Usage, **self._read(request, record))

    def stats(self, request: StorageRequest, record: Record) -> dict[str, int]:
        """Return counters of the running server; empty for a driver that keeps none."""
        return dict(self._try("stats", Mapping, **self._read(request, record)) or {})

    def remove(self, request: StorageRequest, record: Record | None) -> None:
        """Remove what prepare made."""
        self._do("remove", **self._read(request, record))

    def _read(self, request: StorageRequest, record: Record | None) -> dict[str, Any]:
        """Return the arguments of a verb, with a record of another version as this one of the driver understands it."""
        if record and request.written_by not in ("", self.source) and self.has("upgrade"):
            _name, _space, version = request.written_by.rpartition(" ")
            record = self._record("upgrade", record=record, version=version)
        return {"request": request, "record": record}

    def gc(self, host: Host, valid_ids: frozenset[str], shared: HostPath = _NOWHERE) -> tuple[str, ...]:
        """Remove what belongs to no container."""
        return tuple(self._try("gc", Iterable, host=host, valid_ids=valid_ids, shared=shared) or ())


class NetworkDriver(Driver):
    """See `hookspecs.NetworkSpec`."""

    group = "network"

    def create(self, network: Network) -> Record:
        """Make the host's side of a network, if the driver has one."""
        return self._record("create", network=network) if self.has("create") else {}

    def remove(self, network: Network, record: Record | None) -> None:
        """Remove the host's side."""
        self._do("remove", network=network, record=record)

    def attach(self, request: NetworkRequest) -> Attachment:
        """Connect a container."""
        return self._ask("attach", Attachment, request=request)

    def detach(self, request: NetworkRequest, attachment: Attachment | None) -> None:
        """Disconnect a container, also a half connected one."""
        self._do("detach", request=request, attachment=attachment)

    def ports(self, request: NetworkRequest, attachment: Attachment) -> Attachment:
        """Publish the ports of the request in place of those of the attachment."""
        self.require(Capability.PORTS)
        return self._ask("ports", Attachment, request=request, attachment=attachment)

    def stats(self, request: NetworkRequest, attachment: Attachment) -> NetworkStats:
        """Return counters as the container sees them; zeros of a driver that keeps none."""
        if not self.has("stats"):
            return NetworkStats()
        return self._ask("stats", NetworkStats, request=request, attachment=attachment)

    def gc(self, host: Host, networks: tuple[Network, ...], valid_ids: frozenset[str]) -> tuple[str, ...]:
        """Remove links and rules of no container."""
        return tuple(self._try("gc", Iterable, host=host, networks=networks, valid_ids=valid_ids) or ())


class CgroupDriver(Driver):
    """See `hookspecs.CgroupSpec`."""

    group = "cgroup"

    def settings(self, limits: Limits, request: CgroupRequest) -> Settings:
        """Return the writes for these limits."""
        return self._ask("settings", Settings, limits=limits, request=request)

    def create(self, request: CgroupRequest) -> Record:
        """Make the group."""
        return self._record("create", request=request)

    def apply(self, record: Record, settings: Settings, limits: Limits) -> None:
        """Write the settings."""
        self._do("apply", record=record, settings=settings, limits=limits)

    def entry(self, record: Record) -> CgroupEntry:
        """Return how a new process enters by itself."""
        return self._ask("entry", CgroupEntry, record=record)

    def pids(self, record: Record) -> tuple[int, ...]:
        """Return the processes of the group."""
        return self._ask("pids", tuple, record=record)

    def stats(self, record: Record) -> CgroupStats:
        """Return the accounting now."""
        return self._ask("stats", CgroupStats, record=record)

    def freeze(self, record: Record, *, frozen: bool) -> None:
        """Freeze or thaw."""
        self.require(Capability.FREEZE)
        self._do("freeze", record=record, frozen=frozen)

    def kill(self, request: CgroupRequest, record: Record | None) -> None:
        """Kill every process of the group."""
        self._do("kill", request=request, record=record)

    def mounts(self, request: CgroupRequest, target: HostPath) -> tuple[Mount, ...]:
        """Return the mounts for the guest's /sys/fs/cgroup."""
        return self._ask("mounts", tuple, request=request, target=target)

    def remove(self, request: CgroupRequest, record: Record | None) -> None:
        """Remove the group."""
        self._do("remove", request=request, record=record)

    def gc(self, host: Host, parent: str, valid_ids: frozenset[str]) -> tuple[str, ...]:
        """Remove groups of no container."""
        return tuple(self._try("gc", Iterable, host=host, parent=parent, valid_ids=valid_ids) or ())


class NamespaceDriver(Driver):
    """See `hookspecs.NamespaceSpec`."""

    group = "namespace"

    def plan(self, request: NamespaceRequest) -> NamespacePlan:
        """Return what to clone, join and map."""
        return self._ask("plan", NamespacePlan, request=request)


class RuntimeDriver(Driver):
    """See `hookspecs.RuntimeSpec`."""

    group = "runtime"

    def create(self, request: RuntimeRequest, bundle: Bundle, spawn: Spawn) -> RuntimeProcess:
        """Make the first process and hold it at its gate."""
        return self._ask("create", RuntimeProcess, request=request, bundle=bundle, spawn=spawn)

    def start(self, request: RuntimeRequest, record: Record) -> RuntimeProcess:
        """Let the first process go."""
        return self._ask("start", RuntimeProcess, request=request, record=record)

    def exec(self, request: RuntimeRequest, record: Record, process: Process, spawn: Spawn) -> RuntimeProcess:
        """Run one more process."""
        return self._ask("exec", RuntimeProcess, request=request, record=record, process=process, spawn=spawn)

    def state(self, request: RuntimeRequest, record: Record) -> RuntimeState:
        """Return where the first process is."""
        return self._ask("state", RuntimeState, request=request, record=record)

    def kill(self, request: RuntimeRequest, record: Record, signal: int) -> None:
        """Send a signal to the first process."""
        self._do("kill", request=request, record=record, signal=signal)

    def delete(self, request: RuntimeRequest, record: Record | None) -> None:
        """Remove what create made."""
        self._do("delete", request=request, record=record)

    def gc(self, host: Host, valid_ids: frozenset[str], shared: HostPath = _NOWHERE) -> tuple[str, ...]:
        """Remove what belongs to no container."""
        return tuple(self._try("gc", Iterable, host=host, valid_ids=valid_ids, shared=shared) or ())


CLASSES: Mapping[str, type[Driver]] = {
    "storage": StorageDriver,
    "network": NetworkDriver,
    "cgroup": CgroupDriver,
    "namespace": NamespaceDriver,
    "runtime": RuntimeDriver,
}


class DriverSet:
    """The drivers of one container in a plugin manager of their own, and the observers.

    Raises:
        DriverLoadError, NotFoundError, ConflictError: A chosen driver is not usable.
    """

    def __init__(
        self, registry: Registry, *, storage: str, network: str, cgroup: str, namespace: str, runtime: str
    ) -> None:
        chosen = {"storage": storage, "network": network, "cgroup": cgroup, "namespace": namespace, "runtime": runtime}
        manager = new_manager(registry, chosen.items())
        self.problems: tuple[str, ...] = _add_observers(manager, registry)
        self.storage: StorageDriver = StorageDriver(manager, storage, registry)
        self.network: NetworkDriver = NetworkDriver(manager, network, registry)
        self.cgroup: CgroupDriver = CgroupDriver(manager, cgroup, registry)
        self.namespace: NamespaceDriver = NamespaceDriver(manager, namespace, registry)
        self.runtime: RuntimeDriver = RuntimeDriver(manager, runtime, registry)
        observed = len(self.problems) < len(registry.names("hooks"))
        self.observe: Callable[..., Any] | None = manager.hook.pe_event if observed else None


def open_observers(registry: Registry) -> Callable[..., Any] | None:
    """Return what tells the installed observers, alone in a manager; None where none can be told."""
    if not registry.names("hooks"):
        return None
    manager = new_manager(registry, ())
    problems = _add_observers(manager, registry)
    return manager.hook.pe_event if len(problems) < len(registry.names("hooks")) else None


def _add_observers(manager: pluggy.PluginManager, registry: Registry) -> tuple[str, ...]:
    """Register every observer that can be; say why the others cannot: they are nobody's choice and stop nothing."""
    problems: list[str] = []
    for name in registry.names("hooks"):
        try:
            register(manager, registry, "hooks", name)
        except (ConflictError, DriverLoadError) as exc:
            problems.append(exc.message)
    return tuple(problems)


def open_driver(registry: Registry, group: str, name: str) -> Driver:
    """Return one driver alone, in a manager of its own."""
    return CLASSES[group](new_manager(registry, [(group, name)]), name, registry)
