"""Find, select and load drivers: entry points are listed without importing, and only chosen names are imported."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from plugengine.errors import ConflictError, DriverLoadError, NotFoundError
from plugengine.hookmarks import PROJECT, calls_of
from plugengine.hookspecs import API_VERSION, SPECS
from plugengine.model import Capability, DriverInfo, HostPath
from plugengine.plugins.caching import write_quietly
from plugengine.plugins.calls import Calls
from plugengine.plugins.deadlines import Degraded, Expired, seconds, within
from plugengine.state.names import known_names

if TYPE_CHECKING:
    import pluggy

GROUPS = ("storage", "network", "cgroup", "namespace", "runtime", "hooks")
_INDEX_FORMAT = 1


class Entry(Struct, frozen=True, kw_only=True):
    """One advertised plugin; nothing of it has been imported."""

    group: str
    name: str
    value: str  # "module" or "module:attribute"
    distribution: str
    version: str

    @property
    def source(self) -> str:
        """Return "distribution version", as shown in messages."""
        return f"{self.distribution} {self.version}"


class Registry:
    """The plugins installed in this environment.

    Args:
        cache: File that remembers the list between processes, or None. It is keyed by the modification times of the
            directories on `sys.path`, which every install and uninstall changes; a cache that cannot be read or
            written is ignored.
        degraded: Directory of the notes about drivers that did not answer, or None: none are kept.
        calls: Directory that tells which hooks are being called, see `Calls`, or None.
    """

    def __init__(
        self, *, cache: HostPath | None = None, degraded: HostPath | None = None, calls: HostPath | None = None
    ) -> None:
        self.calls: Calls = Calls(calls)
        self.cache: HostPath | None = cache
        self.degraded: Degraded = Degraded(degraded)
        self._entries: tuple[Entry, ...] | None = None

    def entries(self, group: str) -> tuple[Entry, ...]:
        """Return every plugin of one group, sorted by name; two may share a name."""
        if self._entries is None:
            self._entries = _read_index(self.cache)
        return tuple(entry for entry in self._entries if entry.group == group)

    def fingerprint(self) -> str:
        """Return text that changes whenever what is installed changes, or which of it answers."""
        installed = ";".join(
            f"{entry.group}:{entry.name}={entry.value}@{entry.source}"
            for group in GROUPS
            for entry in self.entries(group)
        )
        return f"{installed} {self.degraded.fingerprint()}"

    def names(self, group: str) -> tuple[str, ...]:
        """Return the distinct names of one group."""
        return tuple(dict.fromkeys(entry.name for entry in self.entries(group)))

    def find(self, group: str, name: str) -> Entry:
        """Return the one plugin of that name.

        Raises:
            NotFoundError: None is installed; the hint lists those that are and the near miss.
            ConflictError: Several distributions offer it.
        """
        found = [entry for entry in self.entries(group) if entry.name == name]
        if not found:
            hint = known_names("installed", name, self.names(group))
            raise NotFoundError(f"{group} driver {name}: not installed", hint=hint)
        if len(found) > 1:
            offers = " and ".join(sorted(entry.source for entry in found))
            raise ConflictError(
                f"{group} driver {name}: offered by {offers}",
                hint="uninstall one of them; neither is used until then",
            )
        return found[0]

    def load(self, group: str, name: str) -> Any:
        """Import a plugin and return its object.

        Raises:
            DriverLoadError: The import failed; the message names the distribution.
        """
        entry = self.find(group, name)
        limit_s = seconds(group, "info")
        try:
            with self.calling(entry, "import"):
                return within(limit_s, lambda: import_target(entry.value))
        except (Exception, SystemExit, Expired) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, Expired):
                reason = f"did not end within {limit_s:g} s"
            raise DriverLoadError(
                f"{group} driver {name} of {entry.source}: import: {reason}",
                hint=f"reinstall or remove {entry.distribution}; --debug shows where it failed",
            ) from exc

    def calling(self, entry: Entry, verb: str) -> AbstractContextManager[None]:
        """Let it be known that a plugin's code runs in this block, unless it is the engine's own."""
        if entry.distribution == PROJECT:
            return nullcontext()
        return self.calls.during(f"{entry.group} driver {entry.name} of {entry.source}: {verb}")


def import_target(value: str) -> Any:
    """Import what "module" or "module:attribute" names."""
    module_name, _, attribute = value.partition(":")
    found: Any = __import__(module_name, fromlist=["__name__"])
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found


def new_manager(registry: Registry, plugins: Iterable[tuple[str, str]]) -> pluggy.PluginManager:
    """Return a fresh plugin manager that holds exactly the (group, name) plugins given.

    Raises:
        DriverLoadError: An import failed, a hook is misspelt or has a wrong signature, or the API version differs.
    """
    from plugengine.plugins.manager import Manager

    manager = Manager(PROJECT)
    for group, name in plugins:
        register(manager, registry, group, name)
    return manager


def register(manager: pluggy.PluginManager, registry: Registry, group: str, name: str) -> None:
    """Add one plugin to a manager.

    A driver written for a newer minor version may have hooks this engine does not know; they are never called.

    Raises:
        DriverLoadError: As `new_manager`; the manager is as it was.
    """
    import pluggy

    plugin = registry.load(group, name)
    source = registry.find(group, name).source
    info = None if group == "hooks" else _info(plugin, group, name, source)
    newer = info is not None and info.api_version > API_VERSION
    if manager.is_registered(plugin):
        other = manager.get_name(plugin)
        raise DriverLoadError(
            f"{group} driver {name} of {source}: is the same object as {other}",
            hint=f"a fault of {source.split()[0]}: each entry point needs a module or object of its own",
        )
    _specify(manager, group)
    try:
        manager.register(plugin, name=f"{group}:{name}")
        _check_hooks(manager, plugin, group, claimed=info.capabilities if info else None, newer=newer)
    except pluggy.PluginValidationError as exc:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        hint = f"a fault of {source.split()[0]}: its hooks must be those of plugengine.hookspecs"
        if newer and info is not None:
            written_for, ours = _dotted(info.api_version), _dotted(API_VERSION)
            hint = f"written for API {written_for}, this engine has {ours}: upgrade plugengine"
        raise DriverLoadError(f"{group} driver {name} of {source}: {' '.join(str(exc).split())}", hint=hint) from exc


def _specify(manager: pluggy.PluginManager, group: str) -> None:
    """Tell a manager the hooks of a group, unless another plugin of it is there already: pluggy takes them once."""
    first = next(name for name in vars(SPECS[group]) if name.startswith("pe_"))
    caller = getattr(manager.hook, first, None)
    if caller is None or not caller.has_spec():
        manager.add_hookspecs(SPECS[group])


def _check_hooks(
    manager: pluggy.PluginManager, plugin: Any, group: str, *, claimed: frozenset[Capability] | None, newer: bool
) -> None:
    """Raise PluginValidationError for hooks that are not of this kind, and for those the driver must have but has not.

    Args:
        manager: Where it is registered.
        plugin: Whose hooks; another's are not its fault.
        group: The kind.
        claimed: What a driver claims; None for other plugins, which need no hook in particular.
        newer: It was written for a later version: hooks no kind has are of that one.
    """
    import pluggy

    own = {
        caller.name
        for caller in manager.get_hookcallers(plugin) or ()
        if any(impl.plugin is plugin and not impl.optionalhook for impl in caller.get_hookimpls())
    }
    of_others = {name for kind, spec in SPECS.items() if kind != group for name in vars(spec)}
    wrong = own & of_others if newer else own - set(vars(SPECS[group]))
    if wrong:
        of_kind = "" if claimed is None else f" of a {group} driver"
        raise pluggy.PluginValidationError(plugin, f"no such hook{of_kind}: {', '.join(sorted(wrong))}")
    for hook, call in calls_of(SPECS[group]).items() if claimed is not None else ():
        if hook not in own and call.required_of(claimed or frozenset()):
            of_whom = f"a driver that claims {call.claim.value}" if call.claim else f"every {group} driver"
            raise pluggy.PluginValidationError(plugin, f"has no {hook}, which {of_whom} must have")


def _info(plugin: Any, group: str, name: str, source: str) -> DriverInfo:
    """Return what a driver says of itself, if this engine can talk to it."""
    what = f"{group} driver {name} of {source}"
    hook = getattr(plugin, f"pe_{group}_info", None)
    if hook is None:
        raise DriverLoadError(f"{what}: has no pe_{group}_info, which every {group} driver must have")
    try:
        info = within(seconds(group, "info"), hook)
    except (Exception, Expired) as exc:
        reason = f"did not return within {seconds(group, 'info'):g} s" if isinstance(exc, Expired) else repr(exc)
        hint = None
        if isinstance(exc, AttributeError) and exc.obj is Capability:
            hint = f"this engine (API {_dotted(API_VERSION)}) knows no capability {exc.name}: upgrade plugengine"
        raise DriverLoadError(f"{what}: pe_{group}_info: {reason}", hint=hint) from exc
    if not isinstance(info, DriverInfo):
        raise DriverLoadError(f"{what}: pe_{group}_info returned {info!r}, not a DriverInfo")
    if info.api_version[0] != API_VERSION[0]:
        raise DriverLoadError(
            f"{what}: written for API {_dotted(info.api_version)}, this engine has {_dotted(API_VERSION)}",
            hint=f"install a release of {source.split()[0]} made for API {API_VERSION[0]}",
        )
    return info


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _read_index(cache: HostPath | None) -> tuple[Entry, ...]:
    key = _index_key()
    if cache is not None:
        try:
            with open(cache, encoding="utf-8") as stream:
                stored: Mapping[str, Any] = json.load(stream)
            if stored["key"] == key:
                return tuple(Entry(**item) for item in stored["entries"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    entries = _scan()
    if cache is not None:
        _write_index(cache, key, entries)
    return entries


def _index_key() -> list[Any]:
    key: list[Any] = [_INDEX_FORMAT, sys.version, sys.prefix]
    for directory in sys.path:
        try:
            key.append([directory, os.stat(directory or ".").st_mtime_ns])
        except OSError:
            continue
    return key


def _write_index(cache: HostPath, key: list[Any], entries: tuple[Entry, ...]) -> None:
    items = [{name: getattr(entry, name) for name in Entry.__struct_fields__} for entry in entries]
    write_quietly(cache, json.dumps({"key": key, "entries": items}).encode())


def _scan() -> tuple[Entry, ...]:
    from importlib import metadata

    found: dict[tuple[str, str, str], Entry] = {}
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = distribution.name
        if name is None or name in seen:  # a shadowed copy further down sys.path is not what would be imported
            continue
        seen.add(name)
        for point in distribution.entry_points:
            group = point.group.removeprefix(f"{PROJECT}.")
            if point.group == f"{PROJECT}.{group}" and group in GROUPS:
                entry = Entry(
                    group=group,
                    name=point.name,
                    value=point.value,
                    distribution=name,
                    version=distribution.version,
                )
                found[(group, point.name, name)] = entry
    return tuple(found[key] for key in sorted(found))
