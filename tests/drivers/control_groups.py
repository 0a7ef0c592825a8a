"""Groups that are made for one test, and processes in them; for the cgroup drivers of both versions."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from plugengine.model import CgroupRequest, CgroupStats, Host, Limits, Record, Settings

PARENT = "plugengine-test"


@dataclass
class Group:
    """One group; what runs in it is killed and it is removed when the test ends."""

    driver: ModuleType
    record: Record
    request: CgroupRequest
    children: list[int] = field(default_factory=list)

    def limit(self, limits: Limits) -> Settings:
        """Apply limits, all of which this host must hold."""
        settings: Settings = self.driver.pe_cgroup_settings(limits, self.request)
        assert settings.unsupported == ()
        self.driver.pe_cgroup_apply(self.record, settings, limits)
        return settings

    def directory(self, controller: str = "") -> Path:
        """Return the directory of a controller; version 2 has one for all."""
        found: str = self.record["group"] if "group" in self.record else self.record["groups"][controller]
        return Path(found)

    def text(self, controller: str, file: str) -> str:
        """Return what a control file says."""
        return self.directory(controller).joinpath(file).read_text().strip()

    def start(self, act: Callable[[], int | None]) -> int:
        """Run `act` in a child, which has entered the group on return; its value is the exit code."""
        entry = self.driver.pe_cgroup_entry(self.record)
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
        """Return the exit code of a started child, or minus the signal."""
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def stats(self) -> CgroupStats:
        """Return the accounting."""
        found: CgroupStats = self.driver.pe_cgroup_stats(self.record)
        return found

    def pids(self) -> tuple[int, ...]:
        """Return who is in it."""
        found: tuple[int, ...] = self.driver.pe_cgroup_pids(self.record)
        return found

    def end(self) -> None:
        """Kill, reap and remove."""
        self.driver.pe_cgroup_kill(self.request, self.record)
        while self.children:
            os.waitpid(self.children.pop(), 0)
        self.driver.pe_cgroup_remove(self.request, self.record)


@contextmanager
def groups_of(
    driver: ModuleType, host: Host, create: Callable[[CgroupRequest], Record] | None = None
) -> Iterator[Callable[[], Group]]:
    """Lend a maker of groups; none of them is left afterwards."""
    create = create or driver.pe_cgroup_create
    made: list[Group] = []

    def make() -> Group:
        request = CgroupRequest(container_id=uuid.uuid4().hex, parent=f"{PARENT}/{os.getpid()}", owner=host.root)
        made.append(Group(driver, create(request), request))
        return made[-1]

    yield make
    for group in made:
        group.end()
    left = [
        *Path("/sys/fs/cgroup").glob(f"{PARENT}/{os.getpid()}"),
        *Path("/sys/fs/cgroup").glob(f"*/{PARENT}/{os.getpid()}"),
    ]
    assert left == []
