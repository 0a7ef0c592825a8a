"""The conformance kit: what a driver must do, as cases that are run against it.

`run` runs them and returns a report; `pe driver test` is its command line. In a test suite of pytest, subclass
`StorageConformance`, `NetworkConformance`, `CgroupConformance`, `NamespaceConformance` or `RuntimeConformance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plugengine.testing.cases import Case, Failure, Unsuitable, case, cases, expect, expect_equal, fail

if TYPE_CHECKING:
    from plugengine.testing.conformance import (
        CgroupConformance,
        NamespaceConformance,
        NetworkConformance,
        RuntimeConformance,
        StorageConformance,
    )
    from plugengine.testing.outcome import Outcome, Verdict
    from plugengine.testing.report import Report
    from plugengine.testing.runner import run

__all__ = [
    "Case",
    "CgroupConformance",
    "Failure",
    "NamespaceConformance",
    "NetworkConformance",
    "Outcome",
    "Report",
    "RuntimeConformance",
    "StorageConformance",
    "Unsuitable",
    "Verdict",
    "case",
    "cases",
    "expect",
    "expect_equal",
    "fail",
    "run",
]

# Found when they are asked for: pytest need not be installed, and a case needs none of them.
_LATE = {
    "CgroupConformance": "plugengine.testing.conformance",
    "NamespaceConformance": "plugengine.testing.conformance",
    "RuntimeConformance": "plugengine.testing.conformance",
    "NetworkConformance": "plugengine.testing.conformance",
    "StorageConformance": "plugengine.testing.conformance",
    "Outcome": "plugengine.testing.outcome",
    "Report": "plugengine.testing.report",
    "Verdict": "plugengine.testing.outcome",
    "run": "plugengine.testing.runner",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
