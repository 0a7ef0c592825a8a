"""Profiles in docker's JSON format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugengine.errors import NotSupportedError, UsageError
from plugengine.security import seccomp_json
from plugengine.security.seccomp_profile import (
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_TRACE,
    Condition,
    Context,
    Profile,
    Rule,
)

CONTEXT = Context(frozenset({"CAP_CHOWN"}), "x86_64", (6, 1))


def parse(context: Context = CONTEXT, **document: Any) -> Profile:
    return seccomp_json.parse(json.dumps({"defaultAction": "SCMP_ACT_ERRNO"} | document), context)


def allow(**entry: Any) -> dict[str, Any]:
    return {"names": ["read"], "action": "SCMP_ACT_ALLOW"} | entry


def test_a_profile_becomes_values() -> None:
    found = parse(
        defaultErrnoRet=38,
        archMap=[
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        ],
        flags=["SECCOMP_FILTER_FLAG_LOG"],
        syscalls=[
            allow(names=["read", "write"]),
            allow(name="socket", names=None, args=[{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            allow(names=["clone"], args=[{"index": 0, "value": 96, "valueTwo": 32, "op": "SCMP_CMP_MASKED_EQ"}]),
        ],
    )
    assert found == Profile(
        default=SECCOMP_RET_ERRNO | 38,
        machines=("x86_64", "i386"),
        rules=(
            Rule(("read", "write"), SECCOMP_RET_ALLOW),
            Rule(("socket",), SECCOMP_RET_ALLOW, (Condition(0, "!=", 40),)),
            Rule(("clone3",), SECCOMP_RET_ERRNO | 1),
            Rule(("ptrace",), SECCOMP_RET_TRACE | 7),
            Rule(("clone",), SECCOMP_RET_ALLOW, (Condition(0, "==", 32, 96),)),
        ),
    )


def test_comparisons_of_one_argument_are_alternatives_and_of_several_are_all_needed() -> None:
    twice = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    both = [{"index": index, "value": 1, "op": "SCMP_CMP_EQ"} for index in (0, 1)]
    found = parse(syscalls=[allow(args=twice), allow(args=both)])
    assert [rule.conditions for rule in found.rules] == [
        (Condition(0, "==", 1),),
        (Condition(0, "==", 2),),
        (Condition(0, "==", 1), Condition(1, "==", 1)),
    ]


def test_a_rule_with_the_default_action_is_skipped() -> None:
    assert parse(syscalls=[{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]).rules == ()


@pytest.mark.parametrize(
    ("conditions", "applies"),
    [
        pytest.param({"includes": {"caps": ["CAP_CHOWN"]}}, True, id="has-capability"),
        pytest.param({"includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}}, False, id="needs-both"),
        pytest.param({"excludes": {"caps": ["CAP_CHOWN"]}}, False, id="excluded-capability"),
        pytest.param({"excludes": {"caps": ["CAP_KILL"]}}, True, id="other-capability"),
        pytest.param({"includes": {"arches": ["amd64", "x32"]}}, True, id="machine"),
        pytest.param({"includes": {"arches": ["arm64"]}}, False, id="other-machine"),
        pytest.param({"excludes": {"arches": ["amd64"]}}, False, id="excluded-machine"),
        pytest.param({"includes": {"minKernel": "4.8"}}, True, id="older-kernel"),
        pytest.param({"includes": {"minKernel": "6.10"}}, False, id="newer-kernel"),
        pytest.param({"excludes": {"minKernel": "6.1"}}, False, id="excluded-kernel"),
        pytest.param({"includes": {}, "excludes": None}, True, id="none"),
    ],
)
def test_parts_depend_on_capabilities_machine_and_kernel(conditions: dict[str, Any], applies: bool) -> None:
    assert bool(parse(syscalls=[allow(**conditions)]).rules) == applies


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param({"defaultAction": None}, "defaultAction is missing", id="no-default"),
        pytest.param({"defaultAction": "SCMP_ACT_MAYBE"}, "action 'SCMP_ACT_MAYBE'", id="unknown-action"),
        pytest.param({"defaultErrnoRet": 5000}, "errno 5000", id="large-errno"),
        pytest.param({"flags": ["SECCOMP_FILTER_FLAG_X"]}, "flag", id="unknown-flag"),
        pytest.param({"architectures": ["SCMP_ARCH_X86"], "archMap": [{}]}, "exclude each other", id="two-lists"),
        pytest.param({"syscalls": [allow(name="write")]}, "name and names", id="two-names"),
        pytest.param({"syscalls": [allow(names=[])]}, "not a list of names", id="no-name"),
        pytest.param({"syscalls": [allow(names=[1])]}, "not a list of names", id="number-as-name"),
        pytest.param({"syscalls": [["read"]]}, "syscalls\\[0\\]: not an object", id="list"),
        pytest.param({"syscalls": [allow(args=[{"index": 6, "op": "SCMP_CMP_EQ"}])]}, "index 6", id="index"),
        pytest.param({"syscalls": [allow(args=[{"value": -1, "op": "SCMP_CMP_EQ"}])]}, "value -1", id="value"),
        pytest.param({"syscalls": [allow(args=[{"index": 0, "op": "EQ"}])]}, "operator 'EQ'", id="operator"),
        pytest.param({"syscalls": [allow(includes={"minKernel": "new"})]}, "minKernel 'new'", id="kernel"),
    ],
)
def test_a_bad_profile_is_refused_with_the_place(document: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse(**document)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="seccomp profile"):
        seccomp_json.parse(text, CONTEXT)


def test_a_supervisor_is_not_supported() -> None:
    with pytest.raises(NotSupportedError, match="SCMP_ACT_NOTIFY"):
        parse(syscalls=[{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}])
    with pytest.raises(NotSupportedError, match="listenerPath"):
        parse(listenerPath="/run/x")
