"""Make, limit, enter and remove a container's group. A record is {"group": directory}."""

from __future__ import annotations

import errno
import os

from plugengine.cgroups import filesystem
from plugengine.cgroups.limits import has_swap
from plugengine.errors import DriverError
from plugengine.kernel import bpf
from plugengine.model import CgroupRequest, DeviceRule, Limits, Record, Settings

from plugengine_cgroup_v2 import states
from plugengine_cgroup_v2.device_program import device_program
from plugengine_cgroup_v2.host import REQUIRED, Unified
from plugengine_cgroup_v2.limits import SWAP_LIMIT

_REMOVE_TIMEOUT_S = 5.0

# Those that can't be threaded first: where there are processes they are refused (EBUSY) before the others turn the
# group into a threaded one, to which they would be refused for good (EOPNOTSUPP); see cgroup-v2.rst, "Threads".
_IN_ORDER = ("memory", "io", "pids", "cpu", "cpuset")
_HOLDS_PROCESSES = frozenset({errno.EBUSY, errno.EOPNOTSUPP})

# Where the processes of a base group go that is not the root of the machine; see `_enable`.
_LEAF = "plugengine-host"
_MOVE_ROUNDS = 20


def create(request: CgroupRequest, host: Unified) -> Record:
    """Make the group, with the controllers handed down on every level above it."""
    path = filesystem.relative_path(request.parent, request.container_id)

    def hand_down(parent: str, group: str) -> None:
        _enable(parent, is_base=parent == host.base)

    try:
        return {"group": filesystem.make(host.base, path, request.owner, hand_down)}
    except OSError as exc:
        raise DriverError(f"make cgroup {exc.filename or path}: {exc.strerror}") from exc


def expected(request: CgroupRequest, host: Unified) -> Record:
    """Return the record `create` would make; nothing is made."""
    return {"group": os.path.join(host.base, filesystem.relative_path(request.parent, request.container_id))}


def _enable(group: str, *, is_base: bool) -> None:
    """Hand all controllers we use down to the children of a group.

    A group other than the machine's root can't both hand down and hold processes. Where the engine lives in its base
    group, as in a container of its own, the processes there move to a leaf.
    """
    available = filesystem.read(f"{group}/cgroup.controllers").split()
    present = filesystem.read(f"{group}/cgroup.subtree_control").split()
    for name in _IN_ORDER:
        if name not in available or name in present:
            continue
        try:
            filesystem.write_or_errno(f"{group}/cgroup.subtree_control", f"+{name}")
        except OSError as exc:
            if exc.errno in _HOLDS_PROCESSES and is_base:
                _move_to_leaf(group)
                filesystem.write(f"{group}/cgroup.subtree_control", f"+{name}")
            elif not os.path.exists(group):
                raise  # another engine removed it with its last container
            elif name in REQUIRED:
                raise DriverError(
                    f"hand the {name} controller down in {group}: {exc.strerror}", hint=_hint(exc)
                ) from exc


def _hint(error: OSError) -> str | None:
    if error.errno in _HOLDS_PROCESSES:
        return "a group that holds processes can't have children with controllers; choose another --cgroup-parent"
    return None


def _move_to_leaf(group: str) -> None:
    leaf = f"{group}/{_LEAF}"
    os.makedirs(leaf, exist_ok=True)
    for _ in range(_MOVE_ROUNDS):  # a process may fork while it is moved
        members = filesystem.read(f"{group}/cgroup.procs").split()
        if not members:
            return
        for pid in members:
            try:
                filesystem.write_or_errno(f"{leaf}/cgroup.procs", pid)
            except OSError as exc:
                if exc.errno not in {errno.ESRCH, errno.EINVAL}:
                    raise  # it ended, or is a thread of the kernel


def apply(record: Record, settings: Settings, limits: Limits) -> None:
    """Write the settings and put the device program in place; also for a group in use."""
    group = record["group"]
    for write in settings.writes:
        if write.file == SWAP_LIMIT and not os.path.exists(f"{group}/{SWAP_LIMIT}") and not has_swap():
            continue  # nothing to limit
        filesystem.write(f"{group}/{write.file}", write.value)
    if limits.devices is not None:
        try:
            _attach(group, limits.devices)
        except OSError as exc:
            raise DriverError(
                f"limit devices of cgroup {group}: {exc.strerror}",
                hint="the kernel needs CONFIG_CGROUP_BPF, the engine CAP_BPF or CAP_SYS_ADMIN",
            ) from exc


def _attach(group: str, rules: tuple[DeviceRule, ...]) -> None:
    """Attach the program for these rules; there is no moment without one.

    All programs of a group must allow, so the old one, if any, is exchanged or, when there are several, detached after.
    """
    directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened: list[int] = [directory]
    try:
        old = []
        for program_id in bpf.query_device_programs(directory):
            old.append(bpf.open_program(program_id))
            opened.append(old[-1])
        program = bpf.load_device_program(device_program(rules))
        opened.append(program)
        if len(old) == 1:
            bpf.attach_device_program(directory, program, replace_fd=old[0])
            return
        bpf.attach_device_program(directory, program)
        for each in old:
            bpf.detach_device_program(directory, each)
    finally:
        for fd in opened:
            os.close(fd)


def remove(record: Record) -> None:
    """Remove the group; its device program goes with it."""
    try:
        filesystem.remove(record["group"], timeout_s=_REMOVE_TIMEOUT_S)
    except OSError as exc:
        raise DriverError(f"remove cgroup {record['group']}: {exc.strerror}") from exc


def collect(host: Unified, owner: str, parent: str, valid_ids: frozenset[str]) -> list[str]:
    """Kill and remove the groups of containers that are no more; return a line for each."""
    found = filesystem.strays(host.base, parent, owner, valid_ids)
    for group in found:
        states.kill({"group": group})
        remove({"group": group})
    return [f"removed cgroup {parent}/{os.path.basename(group)}" for group in found]
