"""Which process calls each hook, in which thread, and whether the container runs meanwhile: as the contract says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from plugengine.hookmarks import Process
from plugengine.plugins.deadlines import calls
from tests.conftest import Pe
from tests.system.conftest import eventually
from tests.system.packages import Package
from tests.system.test_bad_drivers import Plugged, plug
from tests.system.test_matrix import supported
from tests.waiting import PATIENCE_S

# Each hook of a bundled driver, under another name, with a line written down for every call.
WITNESS = """
import functools, json, os, sqlite3, threading
import {module} as borrowed
from plugengine.hookspecs import hookimpl

def witness(hook):
    @functools.wraps(hook)
    def call(*arguments):
        with open("/proc/self/comm") as stream:
            process = stream.read().strip()
        running = False
        if os.path.exists(os.environ["WITNESS_STATE"]):
            with sqlite3.connect(os.environ["WITNESS_STATE"]) as state:
                up = "SELECT 1 FROM containers WHERE status IN ('running', 'paused')"
                running = bool(state.execute(up).fetchone())
            state.close()
        line = [hook.__name__, process, threading.current_thread() is threading.main_thread(), running]
        with open(os.environ["WITNESS"], "a") as stream:
            stream.write(json.dumps(line) + "\\n")
        return hook(*arguments)
    return hookimpl(call)

def pe_storage_gc(host, valid_ids, shared):
    return ()

def pe_runtime_gc(host, valid_ids, shared):
    return ()

for name in dir(borrowed):
    if name.startswith("pe_{kind}_"):
        globals().setdefault(name, getattr(borrowed, name))
for name in [name for name in globals() if name.startswith("pe_")]:
    if name.startswith("pe_{kind}_"):
        globals()[name] = witness(globals()[name])
    else:
        del globals()[name]
"""
FLAGS = (
    *(
        "--storage",
        "witness",
        "--cgroup",
        "witness",
        "--namespace",
        "witness",
        "--net",
        "witness",
        "--runtime",
        "witness",
    ),
    *("-p", "127.0.0.1:0:80"),
)


def borrow(kind: str, module: str) -> Package:
    name = f"pe-test-witness-{kind}"
    source = WITNESS.format(module=module, kind=kind)
    return Package(name=name, source=source, points={f"plugengine.{kind}:witness": name.replace("-", "_")})


@pytest.fixture
def witnessed(pe: Pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugged:
    monkeypatch.setenv("WITNESS", str(tmp_path / "calls"))
    monkeypatch.setenv("WITNESS_STATE", str(pe.root / "state.db"))
    version = next(name for name in ("v2", "v1") if name in supported("cgroup"))
    modules = {
        "storage": "plugengine_fuse_union",
        "network": "plugengine_net_bridge",
        "cgroup": f"plugengine_cgroup_{version}",
        "namespace": "plugengine_namespaces",
        "runtime": "plugengine_runtime_native",
    }
    return plug(pe, tmp_path / "packages", [borrow(kind, module) for kind, module in modules.items()])


def lead_lives(pe: Plugged) -> None:
    """Do with containers whatever calls a hook."""
    pe("run", "-d", "--name", "seen", *FLAGS, "host:base", "sleep", "100", check=True)
    pe("exec", "seen", "true", check=True)
    for words in (
        ("stats", "--no-stream", "seen"),
        ("top", "seen"),
        ("diff", "seen"),
        ("ps", "--size"),
        ("pause", "seen"),
        ("unpause", "seen"),
        ("inspect", "seen"),
        ("system", "check", "--repair"),
        ("kill", "-s", "CONT", "seen"),
        ("stop", "-t", "0", "seen"),
        ("diff", "seen"),
        ("run", "--rm", "--dry-run", *FLAGS, "host:base", "true"),
        ("run", "--rm", *FLAGS, "host:base", "true"),
        ("network", "create", "--driver", "witness", "made"),
        ("network", "rm", "made"),
    ):
        pe(*words, check=True)
    attached = pe.popen(
        "run",
        "--rm",
        *FLAGS,
        "host:base",
        "sh",
        "-c",
        "trap 'exit 3' USR1; echo; while :; do sleep 0.05; done",
        stdout=subprocess.PIPE,
    )
    assert attached.stdout is not None
    attached.stdout.readline()
    attached.send_signal(signal.SIGUSR1)  # which is passed on
    assert attached.wait(PATIENCE_S) == 3
    attached.stdout.close()
    pe("start", "seen", check=True)
    monitor = json.loads(pe("inspect", "seen", check=True).stdout)[0]["State"]["MonitorPid"]
    os.kill(monitor, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{monitor}/root").exists())
    pe("ps", check=True)  # takes back what is left
    pe("rm", "seen", check=True)


def test_every_hook_is_called_where_and_when_the_contract_says(witnessed: Plugged) -> None:
    lead_lives(witnessed)
    processes: dict[str, Process] = defaultdict(lambda: Process(0))
    for line in Path(os.environ["WITNESS"]).read_text().splitlines():
        hook, process, main_thread, running = json.loads(line)
        processes[hook] |= Process.MONITOR if process == "pe-monitor" else Process.CALLER
        assert main_thread
        if calls()[hook].running is True:
            assert running, f"{hook} while no container runs"
    # What reads a record of another version is called where there is one: tests/system/test_bad_drivers.py.
    expected = {hook: call.runs for hook, call in calls().items() if hook != "pe_storage_upgrade"}
    assert dict(processes) == expected
