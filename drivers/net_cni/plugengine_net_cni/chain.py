"""Ask all plugins of a network, in order or in reverse; see the CNI specification, section 3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from plugengine.errors import DriverError

from plugengine_net_cni import result as results
from plugengine_net_cni.config import NetworkList, at_least, has_capability
from plugengine_net_cni.plugin import Call, Deadline, PluginError, invoke
from plugengine_net_cni.search import find_plugin

PORTS = "portMappings"
_VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_SINCE_CHECK = "0.4.0"
_SINCE_GC = "1.1.0"  # and STATUS


class Connection(Struct, frozen=True, kw_only=True):
    """One container on one network: everything DEL needs, also after a reboot."""

    container_id: str
    network: NetworkList
    version: str
    path: str
    ifname: str
    args: str = ""
    timeout_s: float = 20.0
    runtime: Mapping[str, Any] = field(default_factory=dict)  # arguments of capabilities, by name
    netns: tuple[int, int] = (0, 0)  # NetnsId
    result: Mapping[str, Any] | None = None  # of the last plugin; None: ADD did not come to its end

    def call(self, command: str, netns: str) -> Call:
        """Return one request's environment."""
        return Call(
            command=command,
            path=self.path,
            container_id=self.container_id,
            netns=netns,
            ifname=self.ifname,
            args=self.args,
        )


def negotiate(network: NetworkList, path: str, deadline: Deadline) -> str:
    """Return the newest version that the configuration allows and all plugins speak.

    Raises:
        DriverError: There is none, or a plugin is not there or answers nothing that makes sense.
    """
    call = Call(command="VERSION", path=path, container_id="", netns="dummy", ifname="dummy")
    spoken: dict[str, list[str]] = {}
    for plugin in network.plugins:
        name = str(plugin["type"])
        if name in spoken:
            continue
        answer = invoke(find_plugin(name, path), call, {"cniVersion": network.versions[0]}, deadline)
        versions = answer.get("supportedVersions")
        if not isinstance(versions, list):
            raise DriverError(f"cni plugin {name}: VERSION: answered no supportedVersions: {answer}")
        spoken[name] = [str(version) for version in versions]
    for version in network.versions:
        if all(version in versions for versions in spoken.values()):
            return version
    said = "; ".join(f"{name} speaks {', '.join(versions) or 'none'}" for name, versions in spoken.items())
    raise DriverError(
        f"cni network {network.name}: no version that all plugins speak: it is written for "
        f"{', '.join(network.versions)}; {said}",
        hint="change its cniVersion, or install plugins of another version",
    )


def status(network: NetworkList, version: str, path: str, deadline: Deadline) -> None:
    """Ask whether the plugins can add containers; those of older versions are not asked."""
    if not at_least(version, _SINCE_GC):
        return
    call = Call(command="STATUS", path=path)
    for plugin in network.plugins:
        config = {**_own(plugin), "name": network.name, "cniVersion": version}
        invoke(find_plugin(str(plugin["type"]), path), call, config, deadline)


def add(connection: Connection, netns: str, deadline: Deadline, plugins: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """ADD with plugins in order, each with the result of the one before; return the last result.

    Raises:
        PluginError: The plugins before it are as they are after their ADD.
    """
    call = connection.call("ADD", netns)
    result = None if connection.result is None else results.in_sandbox(connection.result, netns)
    for plugin in plugins:
        name = str(plugin["type"])
        result = invoke(find_plugin(name, connection.path), call, _config(connection, plugin, result), deadline)
        try:
            results.check(result)
        except ValueError as exc:
            raise PluginError(f"cni plugin {name}: {call.about}: {exc}") from exc
    return result or {}


def delete(
    connection: Connection, places: Mapping[int, str], deadline: Deadline, plugins: Sequence[Mapping[str, Any]]
) -> list[str]:
    """DEL with plugins in reverse; try all, return what went wrong.

    Args:
        connection: What was added.
        places: The path of the namespace by the place of the plugin in `plugins`; none: it is gone.
        deadline: For all together.
        plugins: In the order of ADD.
    """
    problems = []
    for place in reversed(range(len(plugins))):
        try:
            _delete_one(connection, places.get(place, ""), deadline, plugins[place])
        except DriverError as exc:
            problems.append(exc.message)
    return problems


def delete_after(
    connection: Connection, places: Mapping[int, str], deadline: Deadline, plugins: Sequence[Mapping[str, Any]]
) -> list[str]:
    """DEL as `delete`, when the namespace is gone and those in `places` stand in for it.

    A plugin that fails there is asked once more in the specification's way, without any: bridge and ptp end with an
    error when their masquerading rules were flushed by somebody else.
    """
    problems = []
    for place in reversed(range(len(plugins))):
        for where in (places[place], "") if place in places else ("",):
            try:
                _delete_one(connection, where, deadline, plugins[place])
            except DriverError as exc:
                if not where:
                    problems.append(exc.message)
            else:
                break
    return problems


def _delete_one(connection: Connection, netns: str, deadline: Deadline, plugin: Mapping[str, Any]) -> None:
    previous = None
    if connection.result is not None and at_least(connection.version, _SINCE_CHECK):
        previous = results.in_sandbox(connection.result, netns) if netns else connection.result
    file = find_plugin(str(plugin["type"]), connection.path)
    invoke(file, connection.call("DEL", netns), _config(connection, plugin, previous), deadline)


def has_check(connection: Connection) -> bool:
    """Tell whether CHECK is to be used."""
    return not connection.network.disable_check and at_least(connection.version, _SINCE_CHECK)


def failing(connection: Connection, netns: str, deadline: Deadline) -> dict[int, str]:
    """CHECK with all plugins in order; return what those said that miss something, by their places."""
    previous = results.in_sandbox(connection.result or {}, netns)
    problems = {}
    for place, plugin in enumerate(connection.network.plugins):
        try:
            file = find_plugin(str(plugin["type"]), connection.path)
            invoke(file, connection.call("CHECK", netns), _config(connection, plugin, previous), deadline)
        except DriverError as exc:
            problems[place] = exc.message
    return problems


def collect(
    network: NetworkList, version: str, path: str, valid: Sequence[tuple[str, str]], deadline: Deadline
) -> list[str]:
    """GC with all plugins: let them forget everything but the attachments given as (container id, interface)."""
    if not has_gc(network, version):
        return []
    problems = []
    attachments = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in valid]
    for plugin in network.plugins:
        config = {**_own(plugin), "name": network.name, "cniVersion": version, _VALID_ATTACHMENTS: attachments}
        try:
            invoke(find_plugin(str(plugin["type"]), path), Call(command="GC", path=path), config, deadline)
        except DriverError as exc:
            problems.append(exc.message)
    return problems


def has_gc(network: NetworkList, version: str) -> bool:
    """Tell whether GC is to be used."""
    return not network.disable_gc and at_least(version, _SINCE_GC)


def publishers(network: NetworkList) -> set[int]:
    """Return the places of the plugins that publish ports."""
    return {place for place, plugin in enumerate(network.plugins) if has_capability(plugin, PORTS)}


def _config(connection: Connection, plugin: Mapping[str, Any], previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what one plugin reads; see the CNI specification, section 3, "Deriving request configuration"."""
    config = {**_own(plugin), "name": connection.network.name, "cniVersion": connection.version}
    arguments = {name: value for name, value in connection.runtime.items() if has_capability(plugin, name)}
    if arguments:
        config["runtimeConfig"] = arguments
    if previous is not None:
        config["prevResult"] = previous
    return config


def _own(plugin: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plugin.items() if key != "capabilities"}
