"""Make, limit, enter and remove a container's group in every hierarchy.

A record is {"groups": {controller: directory}}; controllers that are mounted together share a directory.
"""

from __future__ import annotations

import os

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError, PlugengineError
from plugengine.model import CgroupEntry, CgroupRequest, HostPath, Record, Setting, Settings

from plugengine_cgroup_v1 import states
from plugengine_cgroup_v1.host import UNIFIED, ControllerSet
from plugengine_cgroup_v1.limits import ALLOW, DENY, EVERYTHING, MEMORY_AND_SWAP_LIMIT, MEMORY_LIMIT

_REMOVE_TIMEOUT_S = 5.0
_UNDO_TIMEOUT_S = 0.1
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


def create(request: CgroupRequest, controllers: ControllerSet) -> Record:
    """Make the group everywhere, or nowhere."""
    path = filesystem.relative_path(request.parent, request.container_id)
    groups: dict[str, str] = {}
    try:
        for names, base in controllers.in_use():
            prepare = _inherit_cpuset if "cpuset" in names else _nothing
            directory = filesystem.make(base, path, request.owner, prepare)
            groups.update(dict.fromkeys(names, directory))
    except (OSError, PlugengineError) as exc:
        _remove_all(groups, timeout_s=_UNDO_TIMEOUT_S)
        if isinstance(exc, OSError):
            raise DriverError(f"make cgroup {exc.filename or path}: {exc.strerror}") from exc
        raise
    return {"groups": groups}


def expected(request: CgroupRequest, controllers: ControllerSet) -> Record:
    """Return the record `create` would make; nothing is made."""
    path = filesystem.relative_path(request.parent, request.container_id)
    groups = {name: os.path.join(base, path) for names, base in controllers.in_use() for name in names}
    return {"groups": groups}


def _inherit_cpuset(parent: str, group: str) -> None:
    """Copy processors and memory nodes down: a group without them takes no process (cpuset(7))."""
    for file in _CPUSET_FILES:
        if not filesystem.read(f"{group}/{file}").strip():
            filesystem.write_or_errno(f"{group}/{file}", filesystem.read(f"{parent}/{file}").strip())


def _nothing(parent: str, group: str) -> None:
    """Take a new group as it is."""


def apply(record: Record, settings: Settings) -> None:
    """Write the settings; also to a group in use."""
    groups: dict[str, str] = record["groups"]
    writes = list(settings.writes)
    devices = [write for write in writes if write.controller == "devices"]
    if devices and _same_devices(groups["devices"], devices):
        writes = [write for write in writes if write not in devices]
    for write in _in_possible_order(groups, writes):
        filesystem.write(f"{groups[write.controller]}/{write.file}", write.value)


def _same_devices(group: str, writes: list[Setting]) -> bool:
    """Tell whether the list is as wanted already; a group with children takes no new one (EINVAL)."""
    wanted: dict[str, set[str]] = {}
    for write in writes:
        kind, _, rest = write.value.partition(" ")
        numbers, _, access = rest.partition(" ")
        if write.file == DENY:
            wanted.clear()
        elif write.file == ALLOW and kind == EVERYTHING:
            wanted = {"a *:*": set("rwm")}
        else:
            wanted.setdefault(f"{kind} {numbers}", set()).update(access)
    present = (line.rpartition(" ") for line in filesystem.read(f"{group}/devices.list").splitlines())
    return {key: set(access) for key, _, access in present} == wanted


def _in_possible_order(groups: dict[str, str], writes: list[Setting]) -> list[Setting]:
    """Return the writes so that memory never exceeds memory with swap: the kernel answers EINVAL on the way."""
    by_file = {write.file: position for position, write in enumerate(writes)}
    if MEMORY_LIMIT not in by_file or MEMORY_AND_SWAP_LIMIT not in by_file:
        return writes
    current = int(filesystem.read(f"{groups['memory']}/{MEMORY_AND_SWAP_LIMIT}"))
    memory, both = by_file[MEMORY_LIMIT], by_file[MEMORY_AND_SWAP_LIMIT]
    if int(writes[memory].value) > current or int(writes[memory].value) < 0:
        writes[memory], writes[both] = writes[both], writes[memory]
    return writes


def entry(record: Record) -> CgroupEntry:
    """Return the directory to be born into and the files to write "0" to."""
    groups: dict[str, str] = record["groups"]
    directories = dict.fromkeys(directory for name, directory in groups.items() if name != UNIFIED)
    unified = groups.get(UNIFIED)
    return CgroupEntry(
        clone_into=HostPath(unified) if unified else None,
        tasks=tuple(HostPath(f"{directory}/tasks") for directory in directories),
    )


def remove(record: Record) -> None:
    """Remove the group in every hierarchy; what is gone already counts as removed."""
    errors = _remove_all(record["groups"], timeout_s=_REMOVE_TIMEOUT_S)
    if errors:
        raise errors[0]


def _remove_all(groups: dict[str, str], *, timeout_s: float) -> list[PlugengineError]:
    errors: list[PlugengineError] = []
    for directory in dict.fromkeys(groups.values()):
        try:
            filesystem.remove(directory, timeout_s=timeout_s)
        except DriverError as exc:
            errors.append(exc)
        except OSError as exc:
            errors.append(DriverError(f"remove cgroup {directory}: {exc.strerror}"))
    return errors


def collect(controllers: ControllerSet, owner: str, parent: str, valid_ids: frozenset[str]) -> list[str]:
    """Kill and remove the groups of containers that are no more; return a line for each."""
    found: dict[str, dict[str, str]] = {}
    for names, base in controllers.in_use():
        for directory in filesystem.strays(base, parent, owner, valid_ids):
            groups = found.setdefault(os.path.basename(directory), {})
            groups.update(dict.fromkeys(names, directory))
    for groups in found.values():
        record = {"groups": groups}
        states.kill(record)
        remove(record)
    return [f"removed cgroup {parent}/{name}" for name in found]
