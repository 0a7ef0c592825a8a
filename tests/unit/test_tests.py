"""Rules for the tests themselves: each can fail, and none fails because the machine is busy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
# What fails by itself: helpers say so by their names.
FAIL = {"eventually", "fail", "raises", "warns"}
# Arguments that limit how long is waited, by keyword or as the only one.
LIMITS = {"seconds", "timeout", "timeout_s"}
LIMITED = {"communicate", "join", "settimeout", "wait"}
# Whoever waits for what must not come; they have reasons of their own beside them.
IMPATIENT_S = 0.5
# Machines of their own, which have no tests.waiting or more to do than wait.
ELSEWHERE = {"engine_on_version_2.py", "limits_on_version_2.py", "qemu.py"}


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def can_fail(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and (called(node) in FAIL or called(node).startswith("assert_")))
        for node in ast.walk(function)
    )


def literal_waits(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of calls that wait a number of seconds that is written there."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func).startswith("pytest.mark"):
            continue
        limits = [keyword.value for keyword in node.keywords if keyword.arg in LIMITS]
        limits += node.args if called(node) in LIMITED and len(node.args) == 1 else []
        for limit in limits:
            if isinstance(limit, ast.Constant) and isinstance(limit.value, int | float) and limit.value > IMPATIENT_S:
                yield limit.lineno


FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_asserts_or_calls_what_is_named_so(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_")]
    assert [function.name for function in tests if not can_fail(function)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_waits_are_as_patient_as_all_others(path: Path) -> None:
    lines = [] if path.name in ELSEWHERE else list(literal_waits(ast.parse(path.read_bytes())))
    assert lines == [], "use PATIENCE_S or eventually() of tests/waiting.py"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("done.wait(5)", 1),
        ("run(timeout=10)", 1),
        ("done.wait(PATIENCE_S)", 0),
        ("server.settimeout(0.2)", 0),
        ("event.wait()", 0),
        ("','.join(words)", 0),
    ],
)
def test_a_wait_is_recognised(body: str, expected: int) -> None:
    assert len(list(literal_waits(ast.parse(body)))) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("assert x", True),
        ("with pytest.raises(OSError): x()", True),
        ("assert_refused(x)", True),
        ("driver.remove(x)", False),
        ("refused(x)", False),
    ],
)
def test_a_test_that_cannot_fail_is_recognised(body: str, expected: bool) -> None:
    (function,) = ast.parse(f"def test_x():\n  {body}").body
    assert isinstance(function, ast.FunctionDef)
    assert can_fail(function) is expected
