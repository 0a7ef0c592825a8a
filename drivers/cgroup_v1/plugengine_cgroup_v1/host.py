"""The hierarchies of this host, by controller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple, Self

from plugengine.cgroups.filesystem import Hierarchy, hierarchies, read

UNIFIED = ""  # the hierarchy of version 2, which hybrid hosts mount beside the others

# Without these a container would not be contained; the others only make some flags unsupported.
_REQUIRED = ("cpu", "devices", "memory", "pids")
_KNOWN = frozenset({"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"})
SYSTEMD = "name=systemd"


class ControllerSet(NamedTuple):
    """What is mounted, and below which directories groups can be made."""

    mounted: tuple[Hierarchy, ...]

    @classmethod
    def of_this_host(cls) -> Self:
        """Look at the mounts of this process."""
        return cls(tuple(hierarchies()))

    def in_use(self) -> list[tuple[tuple[str, ...], str]]:
        """Return (names, base directory) of the hierarchies in which a container gets a group.

        `name=systemd` is among them, else the container would end with the session that started it; so is the unified
        one of a hybrid host, for `cgroup.kill` and for entering by clone3(2).
        """
        found = []
        for hierarchy in self.mounted:
            names = hierarchy.names or (UNIFIED,)
            if (_KNOWN | {SYSTEMD, UNIFIED}).intersection(names) and (base := hierarchy.base):
                found.append((names, base))
        return found

    def bases(self) -> Mapping[str, str]:
        """Return the base directory by controller."""
        return {name: base for names, base in self.in_use() for name in names}

    def reasons(self) -> list[str]:
        """Return why containers cannot be limited here."""
        names = {name for hierarchy in self.mounted for name in hierarchy.names}
        if not names & _KNOWN:
            return ["no controller is mounted as cgroup v1: this host uses the unified hierarchy, or none"]
        usable = self.bases()
        reasons = [
            f"no cgroup v1 hierarchy with the {name} controller is mounted" for name in _REQUIRED if name not in names
        ]
        reasons += [
            f"the cgroup v1 hierarchy of the {name} controller can't be written: run as root, with it mounted rw"
            for name in _REQUIRED
            if name in names and name not in usable
        ]
        return reasons


class ControlFiles:
    """The control files of the base groups, to see what this kernel offers; reads only."""

    def __init__(self, controllers: ControllerSet) -> None:
        self._bases = controllers.bases()

    def missing(self, controller: str, file: str) -> str | None:
        """Return why a file can't be written in a group of this controller; None: it can."""
        base = self._bases.get(controller)
        if base is None:
            return f"no {controller} controller on this host"
        if os.path.exists(f"{base}/{file}"):
            return None
        return f"no {file} on this kernel"

    def text(self, controller: str, file: str) -> str:
        """Return the content of a file of the base group."""
        return read(f"{self._bases[controller]}/{file}")
