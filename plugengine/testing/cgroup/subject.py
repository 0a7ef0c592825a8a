"""The cgroup driver under test, and the groups of one case, all below a parent of the case's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from plugengine.cgroups import filesystem
from plugengine.errors import PlugengineError
from plugengine.model import Capability, CgroupRequest, Host, HostPath
from plugengine.plugins.drivers import CgroupDriver
from plugengine.testing.cases import expect_equal
from plugengine.testing.cgroup.group import Group
from plugengine.testing.groups import left_by, parent_of

_ID_LENGTH = 64


class Subject:
    """Makes groups below a parent of the case's process only; no other group of the host is touched.

    Args:
        driver: The driver under test.
        host: Roots below `scratch`; its root is the owner of the groups.
        scratch: Directory of this case.
        options: The user's, given in every request.
    """

    def __init__(self, driver: CgroupDriver, host: Host, scratch: HostPath, options: Mapping[str, str]) -> None:
        self.driver: CgroupDriver = driver
        self.host: Host = host
        self.scratch: HostPath = scratch
        self.options: dict[str, str] = dict(options)
        self._pid = os.getpid()
        self.parent: str = parent_of(self._pid)
        self.groups: list[Group] = []
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill and remove whatever the case left.

        Raises:
            PlugengineError: The driver could not; only if the case itself has not failed.
        """
        problems: list[PlugengineError] = []
        for group in self.groups:
            try:
                group.end()
            except PlugengineError as exc:
                problems.append(exc)
        if problems and kind is None:
            raise problems[0]

    def leaks(self) -> list[str]:
        """Return the directories below the case's parent, and that itself."""
        return [f"left the cgroup {directory}" for directory in self.present()]

    def present(self) -> list[str]:
        """Return every directory that was made for this case and is there."""
        return [group for parent in left_by(self._pid) for group in filesystem.walk(parent)]

    def expect_no_group(self, when: str) -> None:
        """Fail if a group is left; an empty parent may be: killed between two steps, nobody can tell whose it is."""
        parents = [directory for directory in self.present() if directory.endswith(f"/{self.parent}")]
        for directory in parents:
            with suppress(OSError):
                os.rmdir(directory)
        expect_equal(self.present(), [], f"groups {when}")

    def claims(self, capability: Capability) -> bool:
        """Tell whether the driver claims a capability."""
        return capability in self.driver.info.capabilities

    def request(self, container_id: str = "", *, parent: str = "", owner: str | None = None) -> CgroupRequest:
        """Return a request with an id of its own."""
        self._number += 1
        return CgroupRequest(
            container_id=container_id or f"{self._number:0{_ID_LENGTH}x}",
            parent=parent or self.parent,
            owner=self.host.root if owner is None else owner,
            options=self.options,
        )

    def group(self, container_id: str = "", *, parent: str = "", owner: str | None = None) -> Group:
        """Return a new group."""
        self.groups.append(Group(self, self.request(container_id, parent=parent, owner=owner)))
        return self.groups[-1]
