"""Run functions in children of their own, and prove that a test left nothing behind."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugengine.kernel.credentials import set_pdeathsig
from plugengine.kernel.files import AT_FDCWD, AT_RECURSIVE
from plugengine.kernel.mount import MS_PRIVATE, mount_setattr
from plugengine.kernel.process import CLONE_NEWNS, SIGKILL, unshare
from tests.conftest import need_root

InChild = Callable[[Callable[[], Any]], Any]


def run_in_child(function: Callable[[], Any]) -> Any:
    """Run a function in a forked child and return its result, which must be JSON-able; its failure is ours."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            set_pdeathsig(SIGKILL)  # a test that is given up leaves nobody
            report = {"result": function()}
        except BaseException:  # noqa: BLE001 - nothing may run on into the parent's stack
            report = {"failure": traceback.format_exc()}
        with os.fdopen(send, "w") as pipe:
            json.dump(report, pipe)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert text, f"the child ended with status {os.waitstatus_to_exitcode(status)} and no report"
    report = json.loads(text)
    if "failure" in report:
        pytest.fail(report["failure"], pytrace=False)
    return report["result"]


@pytest.fixture
def in_child() -> InChild:
    """Run a function in a child process."""
    return run_in_child


@pytest.fixture
def in_mount_namespace() -> InChild:
    """Run a function in a child with a private mount namespace, which ends with it."""

    def run(function: Callable[[], Any]) -> Any:
        def inside() -> Any:
            unshare(CLONE_NEWNS)
            mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, propagation=MS_PRIVATE)
            return function()

        return run_in_child(inside)

    return run


def census() -> dict[str, Any]:
    """Count what a test could leave behind in this process and on the machine."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = sorted(file.read().splitlines())
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        own = children.read().split()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": mounts,
        "children": own,
        "network": os.readlink("/proc/self/ns/net"),
    }


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Needs root, and compares descriptors, mounts, children and namespace before and after each test."""
    need_root()
    before = census()
    yield
    assert census() == before
