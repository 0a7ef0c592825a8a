"""Which workloads there are: the bundled ones, and those that installed distributions offer through the hook."""

from __future__ import annotations

import importlib
from typing import Any

from plugengine.bench.workload import Workload
from plugengine.bench.workloads import BUNDLED
from plugengine.errors import DriverLoadError
from plugengine.plugins.offers import offers
from plugengine.plugins.registry import Registry


def offered(registry: Registry) -> dict[str, str]:
    """Return the workloads by name, the bundled ones first, each as "module:attribute"; none is imported.

    Raises:
        DriverLoadError: A plugin cannot be imported, or its hook fails.
        ConflictError: Two have the same name.
    """
    asked = offers(registry, "pe_bench_workloads", BUNDLED)
    if asked.faults:
        raise DriverLoadError(asked.faults[0])
    for offer in asked.found:
        asked.find(f"workload {offer.name}", offer.name)
    return {offer.name: offer.target for offer in asked.found}


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
