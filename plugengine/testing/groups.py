"""The control groups a case may make: below a parent named after its process, which its keeper clears away."""

from __future__ import annotations

import os
from typing import Final

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError

_PARENT: Final = "plugengine-kit"
_THAWED: Final = "THAWED"
_REMOVE_S: Final = 10.0


def parent_of(pid: int) -> str:
    """Return the parent of the groups of a case, by the process it runs in."""
    return f"{_PARENT}-{pid}"


def left_by(pid: int) -> list[str]:
    """Return the directories of a case's parent that are there, one in each hierarchy at most."""
    places = {base for hierarchy in filesystem.hierarchies() for base in (hierarchy.mount_point, hierarchy.own)}
    return sorted(path for base in places if os.path.isdir(path := f"{base}/{parent_of(pid)}"))


def thaw(pid: int) -> None:
    """Thaw what a case froze: in version 1 a frozen process does not even die of SIGKILL, see freezer-subsystem.rst."""
    for directory in left_by(pid):
        for group in filesystem.walk(directory):
            try:
                filesystem.write_or_errno(f"{group}/freezer.state", _THAWED)
            except OSError:  # not the freezer's hierarchy, or gone
                continue


def remove(pid: int) -> list[str]:
    """Remove what a case left; say what it was. Its processes are dead by then."""
    found = left_by(pid)
    leaks = [f"left the control group {directory}" for directory in found]
    for directory in found:
        try:
            filesystem.remove(directory, timeout_s=_REMOVE_S)
        except (DriverError, OSError) as exc:
            leaks.append(f"left something that cannot be removed: {exc}")
    return leaks
