"""Write the program that decides on devices: pure, rules in, instructions out.

The kernel calls it with a struct bpf_cgroup_dev_ctx for each mknod and open of a device; it returns 1 to allow. See
include/uapi/linux/bpf.h and Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from plugengine.errors import UsageError
from plugengine.model import DeviceRule

# struct bpf_cgroup_dev_ctx: access in the upper half of the first word, type in the lower
_ACCESS_AND_TYPE, _MAJOR, _MINOR = 0, 4, 8
_TYPE_MASK = 0xFFFF
_ACCESS_SHIFT = 16
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_BOTH_TYPES = "a"

# include/uapi/linux/bpf.h, opcodes
_LOAD_WORD = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOVE_REGISTER = 0xBC  # BPF_ALU | BPF_MOV | BPF_X
_MOVE = 0xB4  # BPF_ALU | BPF_MOV | BPF_K
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_SHIFT_RIGHT = 0x74  # BPF_ALU | BPF_RSH | BPF_K
_JUMP_UNLESS_EQUAL = 0x55  # BPF_JMP | BPF_JNE | BPF_K
_EXIT = 0x95  # BPF_JMP | BPF_EXIT

# Registers: r0 the result, r1 the context and later scratch
_RESULT, _CONTEXT, _TYPE, _WANTED, _MAJOR_NUMBER, _MINOR_NUMBER = range(6)
_SCRATCH = _CONTEXT

_LONGEST_JUMP = (1 << 15) - 1

_INSTRUCTION = Struct("<BBhi")  # opcode, source and target, offset, immediate value
_Instruction = tuple[int, int, int, int, int]  # opcode, target, source, offset, immediate value


_Block = list[_Instruction]

_RETURN_1: _Block = [(_MOVE, _RESULT, 0, 0, 1), (_EXIT, 0, 0, 0, 0)]
_RETURN_0: _Block = [(_MOVE, _RESULT, 0, 0, 0), (_EXIT, 0, 0, 0, 0)]


def device_program(rules: Iterable[DeviceRule]) -> bytes:
    """Return the program that allows what the rules allow, and nothing else.

    Rules of the same numbers add up, as in version 1. A comparison that holds leads to a part of the program that does
    not come back: whatever the verifier learns there stays there, and its work grows with the number of rules and not
    with its square (it gives up after a million steps).

    Raises:
        UsageError: Too many rules.
    """
    code: _Block = [
        (_LOAD_WORD, _TYPE, _CONTEXT, _ACCESS_AND_TYPE, 0),
        (_MOVE_REGISTER, _WANTED, _TYPE, 0, 0),
        (_SHIFT_RIGHT, _WANTED, 0, 0, _ACCESS_SHIFT),
        (_AND, _TYPE, 0, 0, _TYPE_MASK),
        (_LOAD_WORD, _MAJOR_NUMBER, _CONTEXT, _MAJOR, 0),
        (_LOAD_WORD, _MINOR_NUMBER, _CONTEXT, _MINOR, 0),
    ]
    wanted = list(rules)
    for kind, number in _TYPES.items():
        code += _if_equal(_TYPE, number, _one_type(_by_numbers(wanted, kind)))
    code += _RETURN_0
    return b"".join(
        _INSTRUCTION.pack(opcode, source << 4 | target, offset, value) for opcode, target, source, offset, value in code
    )


def _by_numbers(rules: list[DeviceRule], kind: str) -> dict[int | None, dict[int | None, int]]:
    """Return the access allowed by major and minor number."""
    found: dict[int | None, dict[int | None, int]] = {}
    for rule in rules:
        if rule.type in {kind, _BOTH_TYPES}:
            minors = found.setdefault(rule.major, {})
            minors[rule.minor] = minors.get(rule.minor, 0) | sum(_ACCESS[letter] for letter in set(rule.access))
    return found


def _one_type(majors: dict[int | None, dict[int | None, int]]) -> _Block:
    """Decide for one type; rules for every major come first, as nothing comes after one that matched by number."""
    of_any = dict(majors.get(None, {}))
    block = _if_within(of_any.pop(None, 0))
    for minor, access in of_any.items():
        block += _if_equal(_MINOR_NUMBER, minor, _if_within(access))
    for major, minors in majors.items():
        if major is not None:
            block += _if_equal(_MAJOR_NUMBER, major, _one_major(minors))
    return block + _RETURN_0


def _one_major(minors: dict[int | None, int]) -> _Block:
    block = _if_within(minors.get(None, 0))
    for minor, access in minors.items():
        if minor is not None:
            block += _if_equal(_MINOR_NUMBER, minor, _if_within(access) + _RETURN_0)
    return block + _RETURN_0


def _if_equal(register: int, value: int | None, block: _Block) -> _Block:
    assert value is not None  # noqa: S101 - every number's rules were taken out before
    if len(block) > _LONGEST_JUMP:
        raise UsageError("--device-cgroup-rule: more rules than a program can hold, some two thousand")
    return [(_JUMP_UNLESS_EQUAL, register, 0, len(block), value), *block]


def _if_within(access: int) -> _Block:
    """Return 1 if nothing but this access is wanted, else go on.

    It is asked even when everything is allowed: the verifier refuses instructions that can't be reached.
    """
    if not access:
        return []
    return [
        (_MOVE_REGISTER, _SCRATCH, _WANTED, 0, 0),
        (_AND, _SCRATCH, 0, 0, ~access),
        (_JUMP_UNLESS_EQUAL, _SCRATCH, 0, len(_RETURN_1), 0),
        *_RETURN_1,
    ]
