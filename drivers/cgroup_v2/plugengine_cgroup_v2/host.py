"""The unified hierarchy of this host: where groups can be made, and with which controllers."""

from __future__ import annotations

import os
from typing import NamedTuple

from plugengine.cgroups.filesystem import Hierarchy, hierarchies, read
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
    """Return why containers cannot be limited here."""
    mounted = hierarchies()
    found = _find(mounted)
    return [found] if isinstance(found, str) else reasons(found, mounted)


def reasons(found: Unified, mounted: list[Hierarchy]) -> list[str]:
    """Return which required controllers the unified hierarchy lacks: those version 1 holds, and those nobody has."""
    elsewhere = {name for each in mounted for name in each.names}
    lacking = [name for name in REQUIRED if name not in found.controllers]
    held = [name for name in lacking if name in elsewhere]
    absent = [name for name in lacking if name not in elsewhere]
    lines = []
    if held:
        lines.append(
            f"cgroup v1 holds the controllers {', '.join(held)}: booting with cgroup_no_v1=all frees them for the "
            f"unified hierarchy at {found.base}"
        )
    if absent:
        lines.append(
            f"the unified hierarchy at {found.base} lacks the controllers {', '.join(absent)}: its parent hands them "
            "not down, or the kernel has none"
        )
    return lines


def _find(mounted: list[Hierarchy]) -> Unified | str:
    hierarchy = next((each for each in mounted if each.version == 2), None)
    if hierarchy is None:
        return "no cgroup2 filesystem is mounted: mount one at /sys/fs/cgroup"
    base = hierarchy.base
    if base is None:
        return f"the cgroup2 filesystem at {hierarchy.mount_point} can't be written: run as root, with it mounted rw"
    return Unified(base, frozenset(read(f"{base}/cgroup.controllers").split()), hierarchy.own)
