"""Check `--ulimit` before anything is started: raising a hard limit needs CAP_SYS_RESOURCE; see getrlimit(2)."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping

from plugengine.bundle import Rlimit
from plugengine.errors import NotSupportedError, UsageError
from plugengine.kernel.capabilities import CAP_SYS_RESOURCE
from plugengine.kernel.credentials import capget
from plugengine.kernel.rlimits import RLIM_INFINITY, RLIMITS, above


def check_rlimits(asked: Iterable[Rlimit], *, hard_limits: Mapping[str, int], may_raise: bool) -> tuple[Rlimit, ...]:
    """Return the limits to set; of several for one resource the last.

    Args:
        asked: `--ulimit`.
        hard_limits: Of this process, by name.
        may_raise: Whether this process has CAP_SYS_RESOURCE.

    Raises:
        UsageError: An unknown name, or a soft limit above the hard one.
        NotSupportedError: A hard limit is above ours and we may not raise it.
    """
    wanted = {each.name: each for each in asked}
    for each in wanted.values():
        _check(each)
        if not may_raise and above(each.hard, hard_limits[each.name]):
            raise NotSupportedError(
                f"--ulimit {each.name}={_text(each.hard)}: above the engine's own {_text(hard_limits[each.name])},"
                " and it has no CAP_SYS_RESOURCE to raise it"
            )
    return tuple(wanted.values())


def current_hard_limits() -> dict[str, int]:
    """Return the hard limits of this process by name."""
    return {name: resource.getrlimit(number)[1] for name, number in RLIMITS.items()}


def may_raise_limits() -> bool:
    """Tell whether this process has CAP_SYS_RESOURCE (and stays in its user namespace)."""
    return bool(capget()[0] >> CAP_SYS_RESOURCE & 1)


def _check(each: Rlimit) -> None:
    if each.name not in RLIMITS:
        raise UsageError(f"--ulimit {each.name}: unknown limit", hint=f"known: {', '.join(RLIMITS)}")
    if each.soft < RLIM_INFINITY or each.hard < RLIM_INFINITY:
        raise UsageError(f"--ulimit {each.name}: neither a limit nor -1 for none")
    if above(each.soft, each.hard):
        raise UsageError(f"--ulimit {each.name}={each.soft}:{each.hard}: the soft limit is above the hard one")


def _text(limit: int) -> str:
    return "unlimited" if limit == RLIM_INFINITY else str(limit)
