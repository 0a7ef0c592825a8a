"""Groups of version 1 that are made for one test, and processes in them."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import plugengine_cgroup_v1 as driver
import pytest

from plugengine.model import CgroupRequest, CgroupStats, Host, HostPath, Limits, Record, Settings
from tests.conftest import need, need_root

PARENT = "plugengine-test"


@dataclass
class Group:
    """One group; what runs in it is killed and it is removed when the test ends."""

    record: Record
    request: CgroupRequest
    children: list[int] = field(default_factory=list)

    def limit(self, limits: Limits) -> Settings:
        """Apply limits, all of which this host must hold."""
        settings = driver.pe_cgroup_settings(limits, self.request)
        assert settings.unsupported == ()
        driver.pe_cgroup_apply(self.record, settings, limits)
        return settings

    def directory(self, controller: str) -> Path:
        return Path(self.record["groups"][controller])

    def start(self, act: Callable[[], int | None]) -> int:
        """Run `act` in a child, which has entered the group on return; its value is the exit code."""
        entry = driver.pe_cgroup_entry(self.record)
        entered, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 250
            try:
                for path in entry.tasks:
                    Path(path).write_text("0")
                if entry.clone_into:
                    Path(entry.clone_into, "cgroup.procs").write_text("0")
                os.close(tell)
                status = act() or 0
            except OSError as exc:
                status = exc.errno or 251
            finally:
                os._exit(status)
        self.children.append(pid)
        os.close(tell)
        os.read(entered, 1)
        os.close(entered)
        return pid

    def run(self, act: Callable[[], int | None]) -> int:
        """Run `act` to its end; return the exit code, or minus the signal."""
        return self.wait(self.start(act))

    def wait(self, pid: int) -> int:
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def stats(self) -> CgroupStats:
        return driver.pe_cgroup_stats(self.record)

    def end(self) -> None:
        driver.pe_cgroup_kill(self.record)
        while self.children:
            os.waitpid(self.children.pop(), 0)
        driver.pe_cgroup_remove(self.record)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(root=HostPath(str(tmp_path)), run_root=HostPath(str(tmp_path)), kernel=(6, 1))


@pytest.fixture
def new_group(host: Host) -> Iterator[Callable[[], Group]]:
    """Return a maker of groups."""
    need_root()
    reasons = driver.pe_cgroup_probe(host)
    need("; ".join(reasons) or None)
    made: list[Group] = []

    def make() -> Group:
        request = CgroupRequest(container_id=uuid.uuid4().hex, parent=f"{PARENT}/{os.getpid()}", owner=host.root)
        made.append(Group(driver.pe_cgroup_create(request), request))
        return made[-1]

    yield make
    for group in made:
        group.end()
    left = list(Path("/sys/fs/cgroup").glob(f"*/{PARENT}/{os.getpid()}"))
    assert left == []


@pytest.fixture
def group(new_group: Callable[[], Group]) -> Group:
    return new_group()


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
