"""Make a wrong driver of a good one: the same hooks, but for those that are spoilt."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from plugengine.hookspecs import hookimpl
from plugengine.model import Kind
from plugengine.testing import Verdict, run
from plugengine.testing.cases import cases

Hook = Callable[..., Any]


@dataclass
class Wrong:
    """One wrong driver, and the case that must catch it."""

    name: str
    good: ModuleType
    case: str
    message: str  # pattern of what the report must say
    hooks: dict[str, Hook] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Of which kind it is."""
        return Kind(self.case.partition(".")[0])

    def driver(self) -> object:
        """Return it: the hooks of the good one with the spoilt ones in their place."""
        hooks = {name: getattr(self.good, name) for name in dir(self.good) if name.startswith("pe_")}
        return SimpleNamespace(**hooks | {name: hookimpl(hook) for name, hook in self.hooks.items()})

    def assert_caught(self) -> None:
        """Run the case meant for it: it must fail, and say why."""
        outcome = verdict_of(self.kind, self.driver(), self.name, self.case)
        assert outcome.verdict is Verdict.FAILED, f"{self.name} was not caught by {self.case}"
        words = "\n".join((outcome.message, *outcome.leaks))
        assert re.search(self.message, words), words

    def assert_good_passes(self) -> None:
        """Run the same case with the good driver: it must pass, or the case would prove nothing."""
        outcome = verdict_of(self.kind, self.good, f"good_{self.name}", self.case)
        assert outcome.verdict is Verdict.PASSED, (outcome.message, outcome.leaks, outcome.traceback)


def verdict_of(kind: Kind, plugin: object, name: str, case_id: str) -> Any:
    """Return the outcome of one case for one driver."""
    chosen = [case for case in cases(kind) if case.id == case_id]
    assert chosen, f"there is no case {case_id}"
    report = run(kind, plugin, name=name, chosen=chosen, jobs=1)
    assert not report.reasons, report.reasons
    return report.outcomes[0]
