"""What holds for every call of a hook: which drivers must have it, which process makes the call, how long it may take.

`plugengine.hookspecs` marks each hook with `hook`; the loader refuses drivers that lack what they must have, deadlines
are taken from here, and the reference shows all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Flag, auto
from typing import Any, Final, TypeVar

import pluggy
from msgspec import Struct

from plugengine.model import Capability

PROJECT: Final = "plugengine"
QUICK_S: Final = 20.0  # answers from what is there
CHANGE_S: Final = 60.0  # makes or unmakes things of the kernel
BULK_S: Final = 1800.0  # copies, removes or walks a container's files: as long as there are files

_MARK: Final = "plugengine_call"
_hookspec: Final[pluggy.HookspecMarker] = pluggy.HookspecMarker(PROJECT)
_F = TypeVar("_F", bound=Callable[..., Any])


class Process(Flag):
    """The process a hook is called in."""

    CALLER = auto()  # of `pe`, or of whoever uses the library, in the thread that called it
    MONITOR = auto()  # the container's monitor: one thread, in a mount namespace of its own


class Call(Struct, frozen=True, kw_only=True):
    """What the engine promises of every call of one hook, and asks of every driver."""

    runs: Process
    within_s: float
    running: bool | None  # while the container runs; None: before, then and after, or there is no container
    optional: bool = False
    claim: Capability | None = None  # who claims this has the hook, and only theirs is called

    def required_of(self, claimed: frozenset[Capability]) -> bool:
        """Tell whether a driver that claims these capabilities must have the hook."""
        return self.claim in claimed if self.claim is not None else not self.optional


def hook(
    claim: Capability | None = None,
    *,
    runs: Process,
    within_s: float = CHANGE_S,
    running: bool | None = False,
    optional: bool = False,
) -> Callable[[_F], _F]:
    """Mark a method of a specification as a hook that one driver answers."""

    def mark(function: _F) -> _F:
        call = Call(runs=runs, within_s=within_s, running=running, optional=optional, claim=claim)
        setattr(function, _MARK, call)
        return _hookspec(firstresult=True)(function)

    return mark


def calls_of(specification: type) -> dict[str, Call]:
    """Return the hooks of a specification that one driver answers, in order."""
    found = {name: getattr(function, _MARK, None) for name, function in vars(specification).items()}
    return {name: call for name, call in found.items() if call is not None}
