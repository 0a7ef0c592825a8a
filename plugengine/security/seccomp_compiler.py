"""Compile a profile to a classic BPF program; see seccomp(2) and Documentation/networking/filter.rst.

The calls of a machine are cut into ranges that share a decision, and the ranges are found by binary search: some eight
comparisons for any call. The kernel remembers the calls that are allowed whatever their arguments are (Linux 5.11), so
most calls do not even run the program.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from plugengine.errors import UsageError
from plugengine.security.seccomp_profile import (
    LOW_WORD,
    SECCOMP_RET_ACTION_FULL,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_LOG,
    WHOLE,
    Condition,
    Profile,
    Rule,
)
from plugengine.security.syscalls import numbers

# include/uapi/linux/bpf_common.h: class, size and mode of the instructions used here
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JEQ = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JGT = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JGE = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_MAXINSNS = 4096
_SHORT_JUMP = 255

# include/uapi/linux/seccomp.h, struct seccomp_data, on little-endian machines
_NR = 0
_ARCH = 4
_ARGS = 16
_ARG_BYTES = 8
_HIGH_WORD_OFFSET = 4
_WORD_BITS = 32

# include/uapi/linux/audit.h
_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7}

# arch/x86/include/uapi/asm/unistd.h: calls of the x32 ABI come under the same AUDIT_ARCH, with this bit
_X32_SYSCALL_BIT = 0x40000000

_INSTRUCTION = struct.Struct("<HBBI")


class _Instruction(NamedTuple):
    code: int
    k: int
    jump_true: int = 0
    jump_false: int = 0


_Code = list[_Instruction]
_Decision = tuple[tuple[int, tuple[Condition, ...]], ...]  # (action, conditions), the last one without conditions

# Targets of jumps inside one comparison, settled when its length is known.
_HOLDS = -1
_FAILS = -2


def compile_program(profile: Profile) -> bytes:
    """Return the program as an array of struct sock_filter.

    Raises:
        UsageError: It has more instructions than the kernel takes.
    """
    code = [_Instruction(_LOAD_WORD, _ARCH)]
    for machine in profile.machines:
        section = _machine(profile, machine)
        code.append(_Instruction(_JEQ, _AUDIT_ARCH[machine], 1, 0))
        code.append(_Instruction(_JUMP, len(section)))
        code += section
    code.append(_Instruction(_RETURN, _foreign_action(profile)))
    if len(code) > _MAXINSNS:
        raise UsageError(f"seccomp profile: {len(code)} instructions, the kernel takes {_MAXINSNS}")
    return b"".join(_INSTRUCTION.pack(one.code, one.jump_true, one.jump_false, one.k) for one in code)


def _foreign_action(profile: Profile) -> int:
    """Return what happens to calls of another ABI: they must not be a way around a list of refused names."""
    permissive = profile.default & SECCOMP_RET_ACTION_FULL in {SECCOMP_RET_ALLOW, SECCOMP_RET_LOG}
    return SECCOMP_RET_KILL_PROCESS if permissive else profile.default


def _machine(profile: Profile, machine: str) -> _Code:
    ranges = _ranges(profile, machine)
    if machine == "x86_64":
        ranges.append((_X32_SYSCALL_BIT, ((_foreign_action(profile), ()),)))
    return [_Instruction(_LOAD_WORD, _NR), *_search(ranges)]


def _ranges(profile: Profile, machine: str) -> list[tuple[int, _Decision]]:
    """Return (first number, decision) in order; each range ends where the next begins."""
    default: _Decision = ((profile.default, ()),)
    decisions = {
        number: (*rules, *default) if rules[-1][1] else rules
        for number, rules in _rules_by_number(profile.rules, machine).items()
    }
    ranges: list[tuple[int, _Decision]] = []
    position = 0
    for number in sorted(decisions):
        if number > position:
            _append(ranges, position, default)
        _append(ranges, number, decisions[number])
        position = number + 1
    _append(ranges, position, ((_newer_action(profile.default), ()),))
    return ranges


def _append(ranges: list[tuple[int, _Decision]], start: int, decision: _Decision) -> None:
    if not ranges or ranges[-1][1] != decision:
        ranges.append((start, decision))


def _newer_action(default: int) -> int:
    """Return the action for calls newer than any the profile names.

    With EPERM a C library gives up, with ENOSYS it uses the older call it knows; a profile written before the call
    existed can't have meant to forbid it.
    """
    refuses = default & SECCOMP_RET_ACTION_FULL == SECCOMP_RET_ERRNO
    return SECCOMP_RET_ERRNO | errno.ENOSYS if refuses else default


def _rules_by_number(rules: tuple[Rule, ...], machine: str) -> dict[int, _Decision]:
    """Return what the profile says of each call; names the machine does not have are skipped, as by libseccomp."""
    table = numbers(machine)
    found: dict[int, list[tuple[int, tuple[Condition, ...]]]] = {}
    for rule in rules:
        for name in rule.names:
            number = table.get(name)
            if number is None:
                continue
            so_far = found.setdefault(number, [])
            if not so_far or so_far[-1][1]:  # nothing comes after a rule without conditions
                so_far.append((rule.action, rule.conditions))
    return {number: tuple(so_far) for number, so_far in found.items()}


def _search(ranges: list[tuple[int, _Decision]]) -> _Code:
    if len(ranges) == 1:
        return _decide(ranges[0][1])
    middle = len(ranges) // 2
    lower, upper = _search(ranges[:middle]), _search(ranges[middle:])
    pivot = ranges[middle][0]
    if len(lower) <= _SHORT_JUMP:
        return [_Instruction(_JGE, pivot, len(lower), 0), *lower, *upper]
    return [_Instruction(_JGE, pivot, 0, 1), _Instruction(_JUMP, len(lower)), *lower, *upper]


def _decide(decision: _Decision) -> _Code:
    code: _Code = []
    for action, conditions in decision:
        tests = [_compare(condition) for condition in conditions]
        length = sum(map(len, tests)) + 1
        position = 0
        for test in tests:
            code += _settle(test, fails=length - position)
            position += len(test)
        code.append(_Instruction(_RETURN, action))
    return code


def _settle(test: _Code, *, fails: int) -> _Code:
    """Turn _HOLDS into a jump past the comparison and _FAILS into one past the whole rule."""
    settled = []
    for position, one in enumerate(test):
        targets = {_HOLDS: len(test) - position - 1, _FAILS: fails - position - 1}
        settled.append(
            one._replace(
                jump_true=targets.get(one.jump_true, one.jump_true),
                jump_false=targets.get(one.jump_false, one.jump_false),
            )
        )
    return settled


def _compare(condition: Condition) -> _Code:
    """Compare word by word, the high one first; it need not be looked at when the mask hides it."""
    op, holds, fails = condition.op, _HOLDS, _FAILS
    if op in {"!=", "<", "<="}:  # the opposite of ==, >=, >
        op = {"!=": "==", "<": ">=", "<=": ">"}[op]
        holds, fails = fails, holds
    high, low = condition.value >> _WORD_BITS, condition.value & LOW_WORD
    code: _Code = []
    if condition.mask >> _WORD_BITS:
        code += _load(condition, high=True)
        if op != "==":
            code.append(_Instruction(_JGT, high, holds, 0))
        code.append(_Instruction(_JEQ, high, 0, fails))
    elif high:
        # What is left after masking is below the value, whatever it is.
        return [_Instruction(_JUMP_IF_ANYTHING, 0, fails, fails)]
    code += _load(condition, high=False)
    code.append(_Instruction({"==": _JEQ, ">": _JGT, ">=": _JGE}[op], low, holds, fails))
    return code


_JUMP_IF_ANYTHING = _JGE  # with k = 0: always true


def _load(condition: Condition, *, high: bool) -> _Code:
    offset = _ARGS + _ARG_BYTES * condition.argument + (_HIGH_WORD_OFFSET if high else 0)
    mask = (condition.mask >> _WORD_BITS) if high else condition.mask & LOW_WORD
    code = [_Instruction(_LOAD_WORD, offset)]
    if mask != WHOLE & LOW_WORD:
        code.append(_Instruction(_AND, mask))
    return code
