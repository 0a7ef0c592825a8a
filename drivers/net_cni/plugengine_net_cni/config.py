"""Read and check network configurations; see the CNI specification, section 1."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from plugengine.errors import UsageError

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # oldest first
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class NetworkList(Struct, frozen=True, kw_only=True):
    """One network: plugins in the order of ADD."""

    name: str
    versions: tuple[str, ...]  # that the configuration may be read as, the newest first
    plugins: tuple[Mapping[str, Any], ...]
    disable_check: bool = False
    disable_gc: bool = False

    def claims(self, capability: str) -> bool:
        """Tell whether one of the plugins has a capability."""
        return any(has_capability(plugin, capability) for plugin in self.plugins)


def has_capability(plugin: Mapping[str, Any], capability: str) -> bool:
    """Tell whether a plugin's configuration asks for a capability's arguments."""
    return bool((plugin.get("capabilities") or {}).get(capability))


def at_least(version: str, wanted: str) -> bool:
    """Tell whether a version is another one or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(wanted)


def read(path: str) -> NetworkList:
    """Return the network of a file.

    Raises:
        UsageError: It cannot be read, or is not valid; says where and why.
    """
    try:
        with open(path, "rb") as stream:
            text = stream.read()
    except OSError as exc:
        raise UsageError(f"cni configuration {path}: {exc.strerror}") from exc
    try:
        return parse(msgspec.json.decode(text))
    except msgspec.DecodeError as exc:
        raise UsageError(f"cni configuration {path}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"cni configuration {path}: {exc}") from exc


def parse(data: Any) -> NetworkList:
    """Return a network of a list (`plugins`) or of a single plugin's configuration.

    Raises:
        ValueError: It is not valid.
    """
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - of the text, not of our caller
    if "plugins" not in data and "type" in data:
        data = {**{key: data[key] for key in ("name", "cniVersion") if key in data}, "plugins": [data]}
    name = data.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: not letters, digits, '_', '.' and '-', the first one a letter or digit")
    plugins = data.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins: not a list with at least one plugin")
    for number, plugin in enumerate(plugins):
        _check_plugin(number, plugin)
    return NetworkList(
        name=name,
        versions=_versions(data),
        plugins=tuple(plugins),
        disable_check=_switch(data, "disableCheck"),
        disable_gc=_switch(data, "disableGC"),
    )


def _versions(data: Mapping[str, Any]) -> tuple[str, ...]:
    asked = [data.get("cniVersion", "0.1.0"), *(data.get("cniVersions") or ())]
    found = sorted((version for version in set(map(str, asked)) if version in VERSIONS), key=VERSIONS.index)
    if not found:
        raise ValueError(f"cniVersion {asked[0]}: not one of {', '.join(VERSIONS)}")
    return tuple(reversed(found))


def _check_plugin(number: int, plugin: Any) -> None:
    if not isinstance(plugin, dict):
        raise ValueError(f"plugins[{number}]: not a JSON object")  # noqa: TRY004
    kind = plugin.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind:
        raise ValueError(f"plugins[{number}]: type {kind!r} is no name of a plugin")
    capabilities = plugin.get("capabilities") or {}
    if not isinstance(capabilities, dict) or not all(isinstance(each, bool) for each in capabilities.values()):
        raise ValueError(f"plugins[{number}] ({kind}): capabilities: not names with true or false")
    for key in ("runtimeConfig", "prevResult"):
        if key in plugin:
            raise ValueError(f"plugins[{number}] ({kind}): {key}: belongs to the runtime, not to a configuration")


def _switch(data: Mapping[str, Any], name: str) -> bool:
    """Return a boolean, which older writers of lists give as text."""
    value = data.get(name, False)
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise ValueError(f"{name}: neither true nor false")  # noqa: TRY004
    return value
