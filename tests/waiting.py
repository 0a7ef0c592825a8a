"""Waiting for what a test started: until it is so, however busy the machine.

A test shows what comes, not how soon. Whoever waits polls for the thing itself, and gives up only when no machine would
have needed that long; what must not be waited for is made to take so long that nobody could mistake it. Where a
duration is what is tested (a limit's rate, a stop's timeout), its lower bound is asserted, or processor time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from operator import not_
from typing import Final, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 100.0
_PAUSE_S: Final = 0.02


def settled(take: Callable[[], T], until: Callable[[T], object] = not_, *, seconds: float = PATIENCE_S) -> T:
    """Return what `take` returns as soon as `until` is true of it, at the deadline whatever it is then."""
    deadline = time.monotonic() + seconds
    while True:
        taken = take()
        if until(taken) or time.monotonic() > deadline:
            return taken
        time.sleep(_PAUSE_S)


def eventually(check: Callable[[], T], *, seconds: float = PATIENCE_S) -> T:
    """Return the first true answer of `check`; fail with the last one at the deadline."""
    answer = settled(check, bool, seconds=seconds)
    assert answer, f"still {answer!r} after {seconds:g} s"
    return answer


def stands_still(take: Callable[[], object], *, seconds: float = 0.3) -> bool:
    """Tell whether `take` returns the same a moment later."""
    taken = take()
    time.sleep(seconds)
    return take() == taken


def processor_time(pid: int) -> float:
    """Return the seconds a process and its children, as far as they were waited for, have computed for; see proc(5)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        fields = stream.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
