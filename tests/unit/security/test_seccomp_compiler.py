"""The compiled program decides as its profile says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugengine.errors import UsageError
from plugengine.security import capabilities, seccomp_compiler, seccomp_default
from plugengine.security.seccomp_profile import (
    COMPATIBLE,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_LOG,
    Condition,
    Context,
    Profile,
    Rule,
)
from tests.unit.security.classic_bpf import decide, run

NAMES = ("read", "write", "openat", "socket", "clone", "clone3", "statx", "personality", "mmap", "futex_waitv")
NUMBERS = st.sampled_from([0, 1, 7, 41, 56, 57, 120, 135, 291, 332, 359, 400, 435, 449, 450, 5000])
WORDS = st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 1 << 63, (1 << 64) - 1])
VALUES = st.one_of(WORDS, st.integers(0, (1 << 64) - 1), st.integers(0, 4))
MASKS = st.one_of(st.sampled_from([(1 << 64) - 1, 0xFFFFFFFF, 0xFFFFFFFF00000000, 0x7E020000, 0]), VALUES)
CONDITIONS = st.builds(
    Condition,
    argument=st.integers(0, 5),
    op=st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    value=VALUES,
    mask=MASKS,
)
ACTIONS = st.sampled_from([SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO | 1, 0])
RULES = st.builds(
    Rule,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple),
    action=ACTIONS,
    conditions=st.lists(CONDITIONS, max_size=6).map(tuple),
)


@settings(max_examples=300)
@given(
    default=ACTIONS,
    rules=st.lists(RULES, max_size=8).map(tuple),
    machine=st.sampled_from(["x86_64", "i386", "aarch64"]),
    calls=st.lists(st.tuples(NUMBERS, st.lists(VALUES, min_size=6, max_size=6)), min_size=1, max_size=20),
)
def test_any_profile_decides_as_read(
    default: int, rules: tuple[Rule, ...], machine: str, calls: list[tuple[int, list[int]]]
) -> None:
    machines = ("aarch64",) if machine == "aarch64" else ("x86_64", "i386")
    profile = Profile(default=default, machines=machines, rules=rules)
    program = seccomp_compiler.compile_program(profile)
    for number, args in calls:
        assert run(program, machine, number, args)[0] == decide(profile, machine, number, args)


@pytest.mark.parametrize("caps", [0, capabilities.DEFAULT, (1 << 41) - 1], ids=["none", "default", "all"])
@pytest.mark.parametrize("native", ["x86_64", "aarch64"])
def test_the_default_profile_decides_as_read_for_every_call(native: str, caps: int) -> None:
    profile = seccomp_default.build(Context(capabilities.names(caps), native, (6, 1)))
    program = seccomp_compiler.compile_program(profile)
    generator = random.Random(5)
    interesting = [0, 2, 16, 38, 40, 45, 46, 1 << 32 | 38, 0xFFFFFFFF, 0x7E020000, 0x10000000, 0x20008, 17]
    for machine in COMPATIBLE[native]:
        for number in range(600):
            for args in ([generator.choice(interesting) for _ in range(6)] for _ in range(4)):
                assert run(program, machine, number, args)[0] == decide(profile, machine, number, args)


def test_no_call_takes_more_than_a_few_comparisons() -> None:
    profile = seccomp_default.build(Context(capabilities.names(capabilities.DEFAULT), "x86_64", (6, 1)))
    program = seccomp_compiler.compile_program(profile)
    assert max(run(program, "x86_64", number)[1] for number in range(600)) <= 30


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        pytest.param(SECCOMP_RET_ERRNO | 1, SECCOMP_RET_ERRNO | 1, id="refusing"),
        pytest.param(SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, id="allowing"),
        pytest.param(SECCOMP_RET_LOG, SECCOMP_RET_KILL_PROCESS, id="logging"),
    ],
)
def test_calls_of_other_machines_and_of_x32_are_refused(default: int, expected: int) -> None:
    rules = (Rule(("read",), SECCOMP_RET_ALLOW),)
    program = seccomp_compiler.compile_program(Profile(default, ("x86_64",), rules))
    assert run(program, "x86_64", 0)[0] == SECCOMP_RET_ALLOW
    assert run(program, "x86_64", 0x40000000)[0] == expected
    assert run(program, "i386", 3)[0] == expected
    assert run(program, "arm", 3)[0] == expected


def test_a_program_the_kernel_would_not_take_is_refused() -> None:
    conditions = tuple(Condition(index, ">", 1 << 40) for index in range(6))
    rules = tuple(Rule(("read",), SECCOMP_RET_ALLOW, conditions) for _ in range(200))
    with pytest.raises(UsageError, match="the kernel takes 4096"):
        seccomp_compiler.compile_program(Profile(SECCOMP_RET_ERRNO | 1, ("x86_64",), rules))


def test_long_jumps_reach_over_many_conditions() -> None:
    conditions = tuple(Condition(index, "<", 1 << 40) for index in range(6))
    rules = tuple(Rule((name,), SECCOMP_RET_ALLOW, conditions) for name in NAMES for _ in range(9))
    profile = Profile(SECCOMP_RET_ERRNO | 1, ("x86_64",), rules)
    program = seccomp_compiler.compile_program(profile)
    assert len(program) // 8 > 2000
    for number in range(500):
        for args in ([0] * 6, [1 << 50] * 6):
            assert run(program, "x86_64", number, args)[0] == decide(profile, "x86_64", number, args)
