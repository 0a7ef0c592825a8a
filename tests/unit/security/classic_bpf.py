"""Two ways to decide a system call: run the program as the kernel would, read the rules as a person would."""

from __future__ import annotations

import errno
import operator
import struct
from collections.abc import Sequence

from plugengine.security.seccomp_profile import SECCOMP_RET_ERRNO, Profile
from plugengine.security.syscalls import numbers

ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def run(program: bytes, machine: str, number: int, args: Sequence[int] = ()) -> tuple[int, int]:
    """Return (value returned, instructions executed)."""
    padded = (*args, *(0,) * (6 - len(args)))
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, ARCH[machine], 0, *padded)
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, position, steps = 0, 0, 0
    while True:
        op, jump_true, jump_false, k = code[position]
        position += 1
        steps += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            position += k
        elif op == 0x06:
            return k, steps
        else:
            taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[op]
            position += jump_true if taken else jump_false


def decide(profile: Profile, machine: str, number: int, args: Sequence[int] = ()) -> int:
    """Return the action of the first rule that holds."""
    table = numbers(machine)
    padded = (*args, *(0,) * (6 - len(args)))
    mentioned = [table[name] for rule in profile.rules for name in rule.names if name in table]
    for rule in profile.rules:
        if number not in (table.get(name) for name in rule.names):
            continue
        if all(OPERATORS[one.op](padded[one.argument] & one.mask, one.value) for one in rule.conditions):
            return rule.action
    if number > max(mentioned, default=-1) and profile.default & 0xFFFF0000 == SECCOMP_RET_ERRNO:
        return SECCOMP_RET_ERRNO | errno.ENOSYS
    return profile.default
