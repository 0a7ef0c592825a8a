"""What limits mean before any file is written: lists of processors, memory with swap, shares as weights."""

from __future__ import annotations

import math
import os

from plugengine.cgroups.filesystem import read
from plugengine.errors import UsageError
from plugengine.model import Limits

# kernel/sched: 2 … 262144 of v1 against 1 … 10000 of v2
_LEAST_SHARES = 2
_MOST_SHARES = 262_144
_MOST_WEIGHT = 10_000


def parse_list(text: str, flag: str) -> frozenset[int]:
    """Parse a list of processors or memory nodes, such as "0-3,7"; see cpuset(7), "List format".

    Raises:
        UsageError: Not such a list.
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.strip().partition("-")
        numbers = (first, last) if dash else (first,)
        # More digits than any machine has processors: the range would fill our memory.
        if not all(number.isascii() and number.isdigit() and len(number) <= len("99999") for number in numbers):
            raise UsageError(f"{flag} {text}: not a list such as 0-3,7")
        if int(numbers[0]) > int(numbers[-1]):
            raise UsageError(f"{flag} {text}: {part} runs backwards")
        found.update(range(int(numbers[0]), int(numbers[-1]) + 1))
    return frozenset(found)


def check_list(wanted: str | None, available: str, flag: str) -> None:
    """Refuse processors or memory nodes that are not there; the kernel's own answer is a bare EINVAL."""
    if wanted is None:
        return
    if missing := parse_list(wanted, flag) - parse_list(available, flag):
        raise UsageError(
            f"{flag} {wanted}: {', '.join(map(str, sorted(missing)))} not there",
            hint=f"available: {available.strip()}",
        )


def check_memory(limits: Limits) -> None:
    """Refuse memory limits that contradict each other.

    Raises:
        UsageError: Which two, and how.
    """
    memory, total, reservation = limits.memory_bytes, limits.memory_swap_bytes, limits.memory_reservation_bytes
    if memory is None:
        if total is not None and total >= 0:
            raise UsageError(f"--memory-swap {total}: it includes memory, so it needs --memory too")
        return
    if total is not None and 0 <= total < memory:
        raise UsageError(f"--memory-swap {total}: less than --memory {memory}", hint="it is the sum of memory and swap")
    if reservation is not None and reservation > memory:
        raise UsageError(f"--memory-reservation {reservation}: more than --memory {memory}")


def memory_and_swap(limits: Limits) -> int | None:
    """Return the limit of both together: -1 none, None untouched; by default twice the memory, as docker has it."""
    if limits.memory_bytes is None or limits.memory_swap_bytes is not None:
        return limits.memory_swap_bytes
    return limits.memory_bytes * 2


def has_swap() -> bool:
    """Tell whether this machine swaps at all: /proc/swaps has a line besides its heading."""
    try:
        return len(read("/proc/swaps").splitlines()) > 1
    except OSError:
        return False


def any_disk_uses_bfq() -> bool:
    """Tell whether block I/O weights act on some disk: only the BFQ scheduler weighs (CFQ went with Linux 5.0)."""
    for disk in os.listdir("/sys/block"):
        try:
            if "[bfq]" in read(f"/sys/block/{disk}/queue/scheduler"):
                return True
        except OSError:
            continue  # a disk that went away, or without a queue
    return False


def weight_of_shares(shares: int) -> int:
    """Return the cpu.weight for cpu.shares as runc 1.3 maps them: 2 to 1, 1024 to 100 (both defaults), 262144 to 10000.

    The straight line used before made 39 of the default, less than every group that never asked.
    """
    if shares <= _LEAST_SHARES:
        return 1
    if shares >= _MOST_SHARES:
        return _MOST_WEIGHT
    power = math.log2(shares)
    return math.ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))
