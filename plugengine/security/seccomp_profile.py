"""What a filter says, as values: a default action, machines, and rules that are tried in order."""

from __future__ import annotations

from typing import NamedTuple

# include/uapi/linux/seccomp.h
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_KILL_THREAD = 0x00000000
SECCOMP_RET_TRAP = 0x00030000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
SECCOMP_RET_TRACE = 0x7FF00000
SECCOMP_RET_LOG = 0x7FFC0000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ACTION_FULL = 0xFFFF0000

WHOLE = 0xFFFFFFFFFFFFFFFF
LOW_WORD = 0xFFFFFFFF


class Condition(NamedTuple):
    """One comparison: `(args[argument] & mask) op value`, all of 64 bits and unsigned.

    The kernel cuts an `int` argument to its low word; a mask of LOW_WORD compares what the kernel will see.
    """

    argument: int
    op: str  # == != < <= > >=
    value: int
    mask: int = WHOLE


class Rule(NamedTuple):
    """If a call has one of these names and all conditions hold, its action is taken."""

    names: tuple[str, ...]
    action: int  # SECCOMP_RET_* with its data
    conditions: tuple[Condition, ...] = ()


class Profile(NamedTuple):
    """For each call the first rule that holds decides, else the default."""

    default: int
    machines: tuple[str, ...]  # as in syscalls.tbl, the native one first; calls of other machines are refused
    rules: tuple[Rule, ...]


class Context(NamedTuple):
    """What the conditional parts of a profile depend on."""

    capabilities: frozenset[str]  # CAP_…
    machine: str
    kernel: tuple[int, int]


COMPATIBLE: dict[str, tuple[str, ...]] = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64",)}
