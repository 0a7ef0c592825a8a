"""Check `--ulimit` before anything is started: raising a hard limit needs CAP_SYS_RESOURCE; see getrlimit(2)."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from typing import Final

from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.credentials import capget
from plugengine.spec import Rlimit

# include/uapi/asm-generic/resource.h
NUMBERS: Final[Mapping[str, int]] = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
_NAMES: Final = {number: name for name, number in NUMBERS.items()}
UNLIMITED: Final = -1  # RLIM_INFINITY as Python sees it
_CAP_SYS_RESOURCE: Final = 24

Planned = tuple[int, int, int]  # resource, soft, hard


def plan_rlimits(
    asked: Iterable[Rlimit],
    defaults: Iterable[Rlimit],
    *,
    hard_limits: Mapping[int, int],
    may_raise: bool,
) -> tuple[tuple[Planned, ...], tuple[str, ...]]:
    """Return the limits to set, and warnings for defaults that can't be held.

    Args:
        asked: `--ulimit`.
        defaults: Of the engine's configuration; a limit asked for by the caller replaces its default.
        hard_limits: Of this process, by number.
        may_raise: Whether this process has CAP_SYS_RESOURCE.

    Raises:
        UsageError: An unknown name, or a soft limit above the hard one.
        NotSupportedError: A hard limit asked for is above ours and we may not raise it.
    """
    wanted = {_number(each): each for each in asked}
    planned: list[Planned] = []
    warnings: list[str] = []
    for each in defaults:
        number = _number(each)
        if number in wanted:
            continue
        ours = hard_limits[number]
        hard, soft = each.hard, each.soft
        if not may_raise and _above(hard, ours):
            warnings.append(f"default ulimit {each.name}={_text(hard)}: lowered to {_text(ours)}, no CAP_SYS_RESOURCE")
            hard = ours
            soft = ours if _above(soft, ours) else soft
        planned.append((number, soft, hard))
    for number, each in wanted.items():
        if not may_raise and _above(each.hard, hard_limits[number]):
            raise NotSupportedError(
                f"--ulimit {each.name}={_text(each.hard)}: above the engine's own {_text(hard_limits[number])},"
                " and it has no CAP_SYS_RESOURCE to raise it"
            )
        planned.append((number, each.soft, each.hard))
    return tuple(planned), tuple(warnings)


def current_hard_limits() -> dict[int, int]:
    """Return the hard limits of this process by number."""
    return {number: resource.getrlimit(number)[1] for number in NUMBERS.values()}


def may_raise_limits() -> bool:
    """Tell whether this process has CAP_SYS_RESOURCE (and stays in its user namespace)."""
    return bool(capget()[0] >> _CAP_SYS_RESOURCE & 1)


def raise_rlimits(pid: int, rlimits: Iterable[Planned]) -> None:
    """Raise the hard limits of a child as far as its plan needs; called by its parent before it goes on.

    A child in a user namespace of its own can't do that itself: prlimit(2) wants the capability in the initial one.
    """
    for number, _soft, hard in rlimits:
        soft, ours = resource.prlimit(pid, number)
        if _above(hard, ours):
            resource.prlimit(pid, number, (soft, hard))


def rlimit_name(number: int) -> str:
    """Return the name of a limit as `--ulimit` knows it."""
    return _NAMES.get(number, str(number))


def _number(each: Rlimit) -> int:
    number = NUMBERS.get(each.name)
    if number is None:
        raise UsageError(f"--ulimit {each.name}: unknown limit", hint=f"known: {', '.join(NUMBERS)}")
    if each.soft < UNLIMITED or each.hard < UNLIMITED:
        raise UsageError(f"--ulimit {each.name}: neither a limit nor -1 for none")
    if _above(each.soft, each.hard):
        raise UsageError(f"--ulimit {each.name}={each.soft}:{each.hard}: the soft limit is above the hard one")
    return number


def _above(first: int, second: int) -> bool:
    if second == UNLIMITED:
        return False
    return first == UNLIMITED or first > second


def _text(limit: int) -> str:
    return "unlimited" if limit == UNLIMITED else str(limit)
