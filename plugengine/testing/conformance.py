"""Classes for pytest: subclass one, say which driver it is, and each case of its kind is a test.

class TestAcme(StorageConformance):
@pytest.fixture
def driver(self):
return "acme_snap"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from plugengine.errors import PlugengineError
from plugengine.model import Kind
from plugengine.testing.cases import Case, cases
from plugengine.testing.loading import Tested
from plugengine.testing.outcome import Verdict
from plugengine.testing.runner import run, why_left_out


class Conformance:
    """What the classes of the four kinds have in common; every fixture may be overridden.

    Cases that the driver does not claim are not collected when the fixture `driver` needs no other fixture; else they
    are skipped as "not claimed".
    """

    kind: ClassVar[Kind]

    @pytest.fixture
    def driver(self) -> object:
        """Return the name of an installed driver, or a module or object with its hooks."""
        raise NotImplementedError("give the class a fixture named driver")

    @pytest.fixture
    def driver_options(self) -> Mapping[str, str]:
        """Return the options every case gives to the driver."""
        return {}

    @pytest.fixture
    def directory(self) -> str | None:
        """Return the directory below which the cases write; None: /var/tmp."""
        return None

    @pytest.fixture
    def filesystem(self) -> str | None:
        """Return "btrfs", "ext4" or "xfs" to have one made for each case; None: as it is in the directory."""
        return None

    def not_suitable(self, reason: str) -> None:
        """Say that the host lacks what a case needs."""
        pytest.skip(reason)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each case."""
        if "case" in metafunc.fixturenames:
            found = _claimed(type(self), self.kind)
            metafunc.parametrize("case", found, ids=[case.id for case in found])

    def test_conforms(
        self,
        case: Case,
        driver: object,
        driver_options: Mapping[str, str],
        directory: str | None,
        filesystem: str | None,
    ) -> None:
        """Run one case."""
        report = run(
            self.kind,
            driver,
            chosen=[case],
            options=driver_options,
            directory=directory,
            filesystem=filesystem,
            jobs=1,
        )
        if report.reasons:
            self.not_suitable(f"not supported here: {'; '.join(report.reasons)}")
            return
        outcome = report.outcomes[0]
        if outcome.verdict is Verdict.LEFT_OUT:
            pytest.skip(outcome.message)
        if outcome.verdict is Verdict.SKIPPED:
            self.not_suitable(outcome.message)
        if outcome.verdict is Verdict.FAILED:
            parts = [f"{outcome.id}: {outcome.sentence}", *outcome.reasons, outcome.traceback, outcome.log]
            pytest.fail("\n".join(part for part in parts if part), pytrace=False)


class StorageConformance(Conformance):
    """The cases for storage drivers."""

    kind = Kind.STORAGE


class NetworkConformance(Conformance):
    """The cases for network drivers."""

    kind = Kind.NETWORK


class CgroupConformance(Conformance):
    """The cases for cgroup drivers."""

    kind = Kind.CGROUP


class NamespaceConformance(Conformance):
    """The cases for namespace drivers."""

    kind = Kind.NAMESPACE


def _claimed(cls: type[Conformance], kind: Kind) -> list[Case]:
    """Return the cases of what the driver claims; all of them where the driver is not known before the test."""
    every = cases(kind)
    plugin = _driver_of(cls)
    if plugin is None:
        return list(every)
    try:
        tested = Tested(kind, plugin)
    except PlugengineError:  # each test will say it
        return list(every)
    return [case for case in every if not why_left_out(case, tested, quick=False)]


def _driver_of(cls: type[Conformance]) -> object | None:
    function: Any = inspect.unwrap(cls.driver)
    if list(inspect.signature(function).parameters) != ["self"]:
        return None
    try:
        found: object = function(cls())
    except Exception:  # noqa: BLE001 - the fixture will say it in the test
        return None
    return found
