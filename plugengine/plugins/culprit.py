"""Find out whose code raised an exception nobody expected."""

from __future__ import annotations

import traceback

from plugengine.hookmarks import PROJECT
from plugengine.plugins.registry import GROUPS, Registry


def culprit(exc: BaseException) -> str | None:
    """Return "distribution version" of the plugin whose code raised; None where it was the engine's own.

    That is the innermost frame that belongs to either: what libraries raise is the fault of who called them.
    """
    plugins = _plugins()
    for frame, _line in reversed(list(traceback.walk_tb(exc.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == PROJECT:
            return None
        if package in plugins:
            source = plugins[package]
            return None if source.split()[0] == PROJECT else source
    return None


def _plugins() -> dict[str, str]:
    """Return the sources of the installed plugins by the top-level packages their distributions have."""
    from importlib import metadata

    registry = Registry()
    entries = [entry for group in GROUPS for entry in registry.entries(group)]
    sources = {entry.distribution: entry.source for entry in entries}
    found = {entry.value.partition(":")[0].partition(".")[0]: entry.source for entry in entries}
    for package, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            if distribution in sources:
                found.setdefault(package, sources[distribution])
    return found
