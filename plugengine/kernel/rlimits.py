"""Names and numbers of resource limits; see getrlimit(2)."""

from __future__ import annotations

RLIM_INFINITY = -1  # as Python's resource module has it

# include/uapi/asm-generic/resource.h, by the names of ulimit and docker
RLIMITS: dict[str, int] = {
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


def above(first: int, second: int) -> bool:
    """Tell whether a limit allows more than another."""
    if second == RLIM_INFINITY:
        return False
    return first == RLIM_INFINITY or first > second
