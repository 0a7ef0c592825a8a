"""Which workloads there are: the bundled ones, and those that installed distributions offer through the hook."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from plugengine.bench.workload import Workload
from plugengine.bench.workloads import BUNDLED
from plugengine.errors import ConflictError, DriverLoadError
from plugengine.plugins.registry import Registry, new_manager


def offered(registry: Registry) -> dict[str, str]:
    """Return the workloads by name, the bundled ones first, each as "module:attribute"; none is imported.

    Raises:
        DriverLoadError: A plugin cannot be imported, or its hook fails.
        ConflictError: Two have the same name.
    """
    found = dict(BUNDLED)
    sources = dict.fromkeys(found, "plugengine")
    for name in registry.names("hooks"):
        entry = registry.find("hooks", name)
        manager = new_manager(registry, [("hooks", name)])
        try:
            answers: list[Mapping[str, str] | None] = manager.hook.pe_bench_workloads()
            offers = {word: target for answer in answers if answer for word, target in answer.items()}
        except Exception as exc:
            what = f"plugin {name} of {entry.source}: pe_bench_workloads"
            raise DriverLoadError(f"{what}: {type(exc).__name__}: {exc}") from exc
        for word, target in offers.items():
            if word in found:
                raise ConflictError(
                    f"workload {word}: offered by {sources[word]} and {entry.source}", hint="uninstall one of them"
                )
            found[word], sources[word] = target, entry.source
    return found


def load(name: str, target: str) -> Workload:
    """Import a workload and return it.

    Raises:
        DriverLoadError: The import failed, or it is no workload, or has another name.
    """
    what = f"workload {name} ({target})"
    module, _, attribute = target.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), attribute)()
    except Exception as exc:
        raise DriverLoadError(f"{what}: {type(exc).__name__}: {exc}") from exc
    if not isinstance(made, Workload) or made.name != name:
        raise DriverLoadError(f"{what}: not a plugengine.bench.workload.Workload of that name")
    return made
