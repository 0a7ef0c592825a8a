"""The unified hierarchy of this host: where groups can be made, and with which controllers."""

from __future__ import annotations

import os
from typing import NamedTuple

from plugengine.cgroupfs import Hierarchy, hierarchies, read
from plugengine.errors import NotSupportedError

REQUIRED = ("cpu", "memory", "pids")


class Unified(NamedTuple):
    """The directory below which groups are made."""

    base: str
    controllers: frozenset[str]  # what the base may hand down
    own: str

    def sample(self) -> str | None:
        """Return a group that is not the root, to see which files this kernel has: the root lacks most."""
        if os.path.exists(f"{self.own}/memory.max"):
            return self.own
        try:
            entries = sorted(entry.path for entry in os.scandir(self.base) if entry.is_dir(follow_symlinks=False))
        except OSError:
            return None
        return next((path for path in entries if os.path.exists(f"{path}/memory.max")), None)


def unified() -> Unified:
    """Return the unified hierarchy.

    Raises:
        NotSupportedError: There is none to write to.
    """
    found = _find(hierarchies())
    if isinstance(found, str):
        raise NotSupportedError(f"cgroup driver v2: {found}")
    return found


def reasons_of_this_host() -> list[str]:
    """Return why containers can't be held here."""
    mounted = hierarchies()
    found = _find(mounted)
    return [found] if isinstance(found, str) else reasons(found, mounted)


def reasons(found: Unified, mounted: list[Hierarchy]) -> list[str]:
    """Return a sentence for each required controller that the unified hierarchy lacks."""
    elsewhere = {name: each.mount_point for each in mounted for name in each.names}
    return [
        f"the unified hierarchy at {found.base} has no {name} controller: "
        + (
            f"cgroup v1 holds it at {elsewhere[name]}; booting with cgroup_no_v1=all frees it"
            if name in elsewhere
            else "its parent hands none down, or the kernel has none"
        )
        for name in REQUIRED
        if name not in found.controllers
    ]


def _find(mounted: list[Hierarchy]) -> Unified | str:
    hierarchy = next((each for each in mounted if each.version == 2), None)
    if hierarchy is None:
        return "no cgroup2 filesystem is mounted: mount one at /sys/fs/cgroup"
    base = hierarchy.base
    if base is None:
        return f"the cgroup2 filesystem at {hierarchy.mount_point} can't be written: run as root, with it mounted rw"
    return Unified(base, frozenset(read(f"{base}/cgroup.controllers").split()), hierarchy.own)
