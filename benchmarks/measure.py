"""Time whole commands as a shell sees them, in interleaved rounds."""

from __future__ import annotations

import math
import os
import random
import select
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

RUN_TIMEOUT_MS = 60_000
NS_PER_MS = 1_000_000
NORMAL_QUANTILE_95 = 1.96
ORDER_SEED = 1


@dataclass(kw_only=True)
class Case:
    """One command to time; `failure` holds what it said when it did not succeed."""

    engine: str
    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    expect: str | None = None  # output of `check_argv`
    check_argv: Sequence[str] = ()
    samples_ms: list[float] = field(default_factory=list)
    failure: str | None = None


class RunError(Exception):
    """A command ended with another code than 0, or not in time."""


def run_once(argv: Sequence[str], environment: Mapping[str, str], output: Path) -> float:
    """Spawn, wait, and return the milliseconds between; stdout and stderr go to `output`.

    Raises:
        RunError: The command did not succeed; the message ends with its output.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    begin = time.perf_counter_ns()
    pid = os.posix_spawnp(argv[0], list(argv), dict(environment), file_actions=actions)
    status = _wait(pid)
    elapsed_ms = (time.perf_counter_ns() - begin) / NS_PER_MS
    if status is None:
        raise RunError(f"no end within {RUN_TIMEOUT_MS // 1000} s: {tail(output)}")
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise RunError(f"exit code {code}: {tail(output)}")
    return elapsed_ms


def _wait(pid: int) -> int | None:
    """Wait for the child; kill it and return None when it takes too long."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(RUN_TIMEOUT_MS))
        if not in_time:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    status = os.waitpid(pid, 0)[1]
    return status if in_time else None


def tail(output: Path, characters: int = 2000) -> str:
    """Return the end of what a command printed."""
    return output.read_text(errors="replace").strip()[-characters:] or "(no output)"


def check(case: Case, output: Path) -> None:
    """Prove once, by its output, that the case really runs a program in a container."""
    if case.failure is not None or case.expect is None:
        return
    try:
        run_once(case.check_argv, case.environment, output)
    except (RunError, OSError) as exc:
        case.failure = str(exc)
        return
    if output.read_text(errors="replace").strip() != case.expect:
        case.failure = f"unexpected output: {tail(output)}"


def measure(cases: Sequence[Case], *, rounds: int, warmup: int, output: Path, progress: Callable[[int], None]) -> None:
    """Run every case once a round in random order; the first `warmup` rounds do not count.

    Random, because an engine may still tidy up after its client has returned: no case is always next to pay.
    """
    order = random.Random(ORDER_SEED)
    for number in range(warmup + rounds):
        progress(number)
        for case in order.sample(cases, len(cases)):
            if case.failure is not None:
                continue
            try:
                elapsed_ms = run_once(case.argv, case.environment, output)
            except (RunError, OSError) as exc:
                case.failure = f"round {number}: {exc}"
                continue
            if number >= warmup:
                case.samples_ms.append(elapsed_ms)


def quantile(samples: Sequence[float], fraction: float) -> float:
    """Return the quantile, interpolated between neighbours."""
    ordered = sorted(samples)
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median from order statistics (no distribution assumed)."""
    ordered = sorted(samples)
    count = len(ordered)
    spread = NORMAL_QUANTILE_95 * math.sqrt(count) / 2
    low = max(math.floor(count / 2 - spread), 0)
    high = min(math.ceil(count / 2 + spread), count - 1)
    return ordered[low], ordered[high]
