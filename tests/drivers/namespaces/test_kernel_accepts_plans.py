"""The kernel carries out what the `linux` namespace driver plans."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from plugengine_namespaces import pe_namespace_plan, pe_namespace_probe, support

from plugengine.kernel.process import clone3, setns, unshare
from plugengine.model import Host, HostPath, NamespacePlan, NamespaceRequest
from tests.conftest import need_root

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture(autouse=True)
def as_root() -> None:
    need_root()


def identities(pid: int | str = "self") -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS}


def in_plan(plan: NamespacePlan, act: Callable[[], str]) -> str:
    """Do what the core does with a plan, in processes of our own, and return what `act` says inside."""
    read_end, write_end = os.pipe()
    outer = os.fork()
    if outer == 0:
        status = 1
        try:
            for _, path in plan.join:
                fd = os.open(path, os.O_RDONLY)
                setns(fd)
                os.close(fd)
            pid, _ = clone3(plan.clone_flags)
            if pid == 0:
                if plan.unshare_flags:
                    unshare(plan.unshare_flags)
                os.write(write_end, act().encode())
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(outer, 0)[1]) == 0
    return text


def links() -> str:
    # Read by the number: /proc still shows the outer pid namespace.
    self = os.readlink("/proc/self")
    return "\n".join(f"{kind} {os.readlink(f'/proc/{self}/ns/{kind}')}" for kind in KINDS)


def inside(plan: NamespacePlan) -> dict[str, str]:
    return dict(line.split() for line in in_plan(plan, links).splitlines())


def test_this_host_supports_the_driver() -> None:
    assert pe_namespace_probe(host()) == []


def host() -> Host:
    return Host(root=HostPath("/var/lib/plugengine"), run_root=HostPath("/run/plugengine"), kernel=(6, 1))


def test_private_namespaces_are_new_and_the_others_are_the_hosts() -> None:
    ours = identities()
    theirs = inside(pe_namespace_plan(NamespaceRequest(container_id="c1", modes={"uts": "host"})))
    assert {kind for kind in KINDS if ours[kind] == theirs[kind]} == {"uts", "user", "time"}


def test_the_first_process_is_number_one() -> None:
    plan = pe_namespace_plan(NamespaceRequest(container_id="c1", modes={}))
    assert in_plan(plan, lambda: str(os.getpid())) == "1"


def test_joined_namespaces_are_those_of_the_other_container() -> None:
    first = pe_namespace_plan(NamespaceRequest(container_id="c1", modes={}))
    read_end, write_end = os.pipe()
    pid, pidfd = clone3(first.clone_flags)
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)  # until the test closes its end
        os._exit(0)
    try:
        theirs = identities(pid)
        second = pe_namespace_plan(
            NamespaceRequest(
                container_id="c2",
                modes=dict.fromkeys(("pid", "net", "ipc", "uts"), f"container:{pid}"),
            )
        )
        found = inside(second)
        assert {kind for kind in KINDS if found[kind] == theirs[kind]} == {
            "pid", "net", "ipc", "uts", "user", "time"
        }  # fmt: skip
        assert found["mnt"] not in (theirs["mnt"], identities()["mnt"])
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(pid, 0)
        os.close(pidfd)


def test_a_missing_kind_is_explained() -> None:
    assert support.missing("nonsense") == ("no nonsense namespaces: the kernel is built without CONFIG_NONSENSE_NS")


def test_the_driver_costs_no_heavy_imports() -> None:
    code = (
        "import sys; import plugengine.hookspecs; before = set(sys.modules); import plugengine_namespaces;"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('plugengine')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"asyncio", "json", "pyroute2", "socket", "subprocess"} & set(done.stdout.split())
