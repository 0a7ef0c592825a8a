"""One control group of a case, and the processes in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from plugengine.cgroups import filesystem
from plugengine.kernel.process import clone3
from plugengine.model import CgroupRequest, CgroupStats, Limits, Record, Settings
from plugengine.plugins.drivers import CgroupDriver
from plugengine.testing.cases import Unsuitable, expect
from plugengine.testing.children import Child

if TYPE_CHECKING:
    from plugengine.testing.cgroup.subject import Subject


class Group:
    """One container's group; what runs in it is killed, and it is removed, when the case ends."""

    def __init__(self, subject: Subject, request: CgroupRequest) -> None:
        self.subject: Subject = subject
        self.driver: CgroupDriver = subject.driver
        self.request: CgroupRequest = request
        self.record: Record = self.driver.create(request)
        self.children: list[Child] = []

    @property
    def id(self) -> str:
        """The container's."""
        return self.request.container_id

    def limit(self, limits: Limits) -> Settings:
        """Apply limits.

        Raises:
            Unsuitable: The driver says that this host cannot enforce one of them.
        """
        settings = self.driver.settings(limits, self.request)
        if settings.unsupported:
            raise Unsuitable("; ".join(settings.unsupported))
        self.driver.apply(self.record, settings, limits)
        return settings

    def start(self, act: Callable[[], object]) -> Child:
        """Run `act` in a process that has entered the group when this returns, as the engine starts a container."""
        entry = self.driver.entry(self.record)
        entered, tell = os.pipe()

        def enter_and_act() -> object:
            for path in entry.tasks:
                filesystem.write(path, "0")
            os.close(tell)
            return act()

        with ExitStack() as undo:
            undo.callback(os.close, entered)
            directory = None
            if entry.clone_into is not None:
                directory = os.open(entry.clone_into, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                undo.callback(os.close, directory)
            child = Child(enter_and_act, fork=lambda: clone3(0, pidfd=False, cgroup_fd=directory)[0])
            self.children.append(child)
            os.close(tell)
            os.read(entered, 1)
        return child

    def run(self, act: Callable[[], object]) -> int:
        """Run `act` to its end; return the exit code of its process, or minus the signal that killed it."""
        return self.start(act).status()

    def ask(self, act: Callable[[], object]) -> object:
        """Run `act` in the group; return its JSON-able value. Raises Failure if it raised."""
        answer: object = self.start(act).result()
        return answer

    def stats(self) -> CgroupStats:
        """Return the accounting."""
        return self.driver.stats(self.record)

    def directories(self) -> list[str]:
        """Return the directories a process of the group is in, of the hierarchies the driver uses."""

        def look() -> list[str]:
            return [each.own for each in filesystem.hierarchies() if self.id in each.own.split("/")]

        found = self.start(look).result()
        expect(found, f"a process of group {self.id} is in no directory of that name")
        return [str(directory) for directory in found]

    def end(self) -> None:
        """Kill, reap and remove."""
        try:
            self.driver.kill(self.request, self.record)
        finally:
            for child in self.children:
                if not child.ended:
                    child.kill()
                    child.status()
            self.children.clear()
        self.driver.remove(self.request, self.record)
