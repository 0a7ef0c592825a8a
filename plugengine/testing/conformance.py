"""Classes for pytest: subclass one, say which driver it is, and each case of its kind is a test.

    class TestAcme(StorageConformance):
        @pytest.fixture
        def driver(self):
            return "acme_snap"

Other fixtures of the class say with which options, and where.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import pytest

from plugengine.errors import PlugengineError
from plugengine.model import Kind
from plugengine.testing.cases import Case, cases
from plugengine.testing.loading import Tested
from plugengine.testing.outcome import Outcome, Verdict
from plugengine.testing.runner import Kit

_CASE = "case"  # the parameter


class Conformance:
    """What the classes of the five kinds have in common; every fixture may be overridden.

    Cases of what the driver does not claim are not collected, unless the fixture `driver` needs other fixtures: then
    they are skipped as "not claimed". The first test starts all that were chosen, several at once; each waits for its
    own.
    """

    kind: ClassVar[Kind]
    jobs: ClassVar[int | None] = None  # how many cases run at once; None: one for each processor
    patience: ClassVar[float] = 1.0  # deadlines are multiplied by it

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
        """Return "btrfs", "ext4" or "xfs" to have one made for the cases; None: as it is in the directory."""
        return None

    def not_suitable(self, reason: str) -> None:
        """Say that the host lacks what a case, or the driver, needs."""
        pytest.skip(reason)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each case."""
        if _CASE in metafunc.fixturenames:
            found = _claimed(type(self), self.kind)
            metafunc.parametrize(_CASE, found, ids=[case.id for case in found])

    def test_conforms(
        self,
        request: pytest.FixtureRequest,
        case: Case,
        driver: object,
        driver_options: Mapping[str, str],
        directory: str | None,
        filesystem: str | None,
    ) -> None:
        """Run one case."""
        kits = _Kits.of(request)
        kit = kits.find(self, driver, dict(driver_options), directory, filesystem)
        if kit.reasons:
            self.not_suitable(f"not supported here: {'; '.join(kit.reasons)}")
        why = kit.tested.why_left_out(case)
        if why:
            pytest.skip(why)
        kits.start(kit, request)
        self._judge(kit.schedule.outcome(case))

    def _judge(self, outcome: Outcome) -> None:
        if outcome.verdict is Verdict.SKIPPED:
            self.not_suitable(outcome.message)
        if outcome.verdict is Verdict.DEVIATING:
            pytest.xfail(f"deviates: {outcome.deviation}: {'; '.join(outcome.reasons)}")
        if outcome.verdict is Verdict.FAILED:
            parts = (f"{outcome.id}: {outcome.sentence}", *outcome.reasons, outcome.traceback, outcome.log)
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


class RuntimeConformance(Conformance):
    """The cases for runtime drivers."""

    kind = Kind.RUNTIME


class _Kits:
    """The kits of one class: one, unless its fixtures return something else each time."""

    def __init__(self) -> None:
        self._open: list[tuple[tuple[object, ...], Kit]] = []
        self._started: set[int] = set()

    @classmethod
    def of(cls, request: pytest.FixtureRequest) -> Self:
        """Return those of the class of a test; they are closed after its last test."""
        parent = request.node.parent
        if _KITS not in parent.stash:
            parent.stash[_KITS] = kits = cls()
            parent.addfinalizer(kits.close)
        found: Self = parent.stash[_KITS]
        return found

    def find(
        self,
        asking: Conformance,
        driver: object,
        options: Mapping[str, str],
        directory: str | None,
        filesystem: str | None,
    ) -> Kit:
        """Return the kit for what the fixtures say, opened before or now."""
        key = (driver, options, directory, filesystem)
        for known, kit in self._open:
            if known == key:
                return kit
        kit = Kit(
            asking.kind,
            driver,
            jobs=asking.jobs,
            options=options,
            directory=directory,
            filesystem=filesystem,
            patience=asking.patience,
        ).__enter__()
        self._open.append((key, kit))
        return kit

    def start(self, kit: Kit, request: pytest.FixtureRequest) -> None:
        """Let all cases run of which tests of this class were chosen, in the order of the tests."""
        if id(kit) in self._started:
            return
        self._started.add(id(kit))
        chosen = [item.callspec.params[_CASE] for item in _items_like(request)]
        kit.schedule.add(case for case in chosen if not kit.tested.why_left_out(case))

    def close(self) -> None:
        """End what still runs, and clear up."""
        for _, kit in self._open:
            kit.__exit__(None, None, None)
        self._open.clear()


_KITS = pytest.StashKey[_Kits]()


def _items_like(request: pytest.FixtureRequest) -> list[Any]:
    own = request.node
    return [
        item
        for item in request.session.items
        if item.parent is own.parent and getattr(item, "originalname", "") == getattr(own, "originalname", None)
    ]


def _claimed(cls: type[Conformance], kind: Kind) -> list[Case]:
    """Return the cases of what the driver claims; all of them where the driver is not known before the test."""
    every = list(cases(kind))
    plugin = _driver_of(cls)
    if plugin is None:
        return every
    try:
        tested = Tested(kind, plugin)
    except PlugengineError:  # each test will say it
        return every
    return [case for case in every if not tested.why_left_out(case)]


def _driver_of(cls: type[Conformance]) -> object | None:
    """Return what the fixture would, if it needs nothing but the class."""
    function: Any = inspect.unwrap(cls.driver)
    if not callable(function) or list(inspect.signature(function).parameters) != ["self"]:
        return None
    try:
        found: object = function(cls())
    except Exception:  # noqa: BLE001 - the fixture will say it in the test
        return None
    return found
