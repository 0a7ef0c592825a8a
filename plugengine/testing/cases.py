"""One case of the conformance kit: an id, a sentence, the claim it tests, and the function that tests it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, TypeVar

from msgspec import Struct

from plugengine.cgroups import filesystem
from plugengine.model import Capability, Kind

CONTRACT: Final = "contract"  # the claim every driver makes by being one
_PATIENCE_S: Final = 15.0

# Importing these modules registers their cases; each kind's are imported only when asked for.
MODULES: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.STORAGE: (
        "plugengine.testing.storage.contract",
        "plugengine.testing.storage.unmaking",
        "plugengine.testing.storage.content",
        "plugengine.testing.storage.merging",
        "plugengine.testing.storage.attributes",
        "plugengine.testing.storage.layers",
        "plugengine.testing.storage.posix",
        "plugengine.testing.storage.concurrency",
        "plugengine.testing.storage.crash",
        "plugengine.testing.storage.space",
    ),
    Kind.NETWORK: (
        "plugengine.testing.network.contract",
        "plugengine.testing.network.unmaking",
        "plugengine.testing.network.reach",
        "plugengine.testing.network.isolation",
        "plugengine.testing.network.forwarding",
        "plugengine.testing.network.ports",
        "plugengine.testing.network.addresses",
        "plugengine.testing.network.crash",
    ),
    Kind.CGROUP: (
        "plugengine.testing.cgroup.contract",
        "plugengine.testing.cgroup.limits",
        "plugengine.testing.cgroup.disks",
        "plugengine.testing.cgroup.states",
    ),
    Kind.NAMESPACE: ("plugengine.testing.namespace.contract", "plugengine.testing.namespace.isolation"),
    Kind.RUNTIME: ("plugengine.testing.runtime.contract", "plugengine.testing.runtime.confinement"),
}

CaseFunction = Callable[[Any], None]
_F = TypeVar("_F", bound=CaseFunction)
_registered: dict[str, Case] = {}


class Case(Struct, frozen=True, kw_only=True):
    """One thing a driver must do.

    The id is "kind.subject.what"; ids never change their meaning, so that reports of different releases can be
    compared. A case runs only for a driver that claims all of `needs`; `refused` names a capability whose absence
    is tested: it runs only for drivers that do not claim it.
    """

    id: str
    sentence: str  # what holds for a good driver; the first line of the function's docstring
    claim: str  # CONTRACT, or the value of the capability tested
    needs: frozenset[Capability]
    refused: Capability | None
    deadline_s: float
    slow: bool
    function: CaseFunction

    @property
    def kind(self) -> Kind:
        """Return the kind of driver it is for."""
        return Kind(self.id.split(".", 1)[0])


class Failure(AssertionError):  # noqa: N818 - a verdict about a driver, not an error of ours
    """What the driver did is not what the case asks for."""


class Unsuitable(Exception):  # noqa: N818
    """The case cannot run on this host; the message says what is missing. Shown as skipped, never as passed."""


def case(
    case_id: str,
    *,
    needs: Iterable[Capability] = (),
    refused: Capability | None = None,
    claim: str | None = None,
    deadline_s: float = 20.0,
    slow: bool = False,
) -> Callable[[_F], _F]:
    """Register the decorated function as a case; it takes the subject of its kind and raises `Failure`.

    Args:
        case_id: "kind.subject.what", e.g. "storage.remove.twice".
        needs: Capabilities without whose claim the case is left out.
        refused: A capability that must NOT be claimed for the case to run.
        claim: What is tested; default: the only capability of `needs`, else the contract.
        deadline_s: After this many seconds the case has failed and its processes are killed.
        slow: Left out of a quick run.
    """
    wanted = frozenset(needs)
    if claim is None:
        claim = next(iter(wanted)).value if len(wanted) == 1 else CONTRACT

    def register(function: _F) -> _F:
        if case_id in _registered and _registered[case_id].function.__module__ != function.__module__:
            raise ValueError(f"case {case_id}: defined twice")
        sentence = (function.__doc__ or "").strip().split("\n", 1)[0]
        _registered[case_id] = Case(
            id=case_id,
            sentence=sentence,
            claim=claim,
            needs=wanted,
            refused=refused,
            deadline_s=deadline_s,
            slow=slow,
            function=function,
        )
        return function

    return register


def cases(kind: Kind) -> tuple[Case, ...]:
    """Return every case of a kind, sorted by id."""
    from importlib import import_module

    for module in MODULES[kind]:
        import_module(module)
    return tuple(_registered[name] for name in sorted(_registered) if _registered[name].kind is kind)


def fail(message: str) -> NoReturn:
    """Raise Failure: what was seen, and what was to be seen."""
    raise Failure(message)


def expect(condition: object, message: str) -> None:
    """Raise Failure with the message unless the condition is true."""
    if not condition:
        raise Failure(message)


def expect_equal(seen: object, wanted: object, what: str) -> None:
    """Raise Failure unless both are equal; `what` names the thing compared."""
    if seen != wanted:
        raise Failure(f"{what}: {seen!r}, not {wanted!r}")


def soon(condition: Callable[[], object]) -> bool:
    """Tell whether a condition comes true within some seconds."""
    return filesystem.until(lambda: bool(condition()), timeout_s=_PATIENCE_S)
