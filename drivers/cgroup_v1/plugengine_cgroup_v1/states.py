"""Freeze, thaw and kill all processes of a group."""

from __future__ import annotations

import errno
import os

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError, NotSupportedError
from plugengine.kernel.process import SIGKILL, pidfd_open, pidfd_send_signal
from plugengine.model import Record

from plugengine_cgroup_v1.host import UNIFIED

_FREEZE_TIMEOUT_S = 10.0
_KILL_ROUNDS = 40
_KILL_ROUND_S = 0.25

_FROZEN = "FROZEN"
_THAWED = "THAWED"


def pids(record: Record) -> tuple[int, ...]:
    """Return the processes of the group in any hierarchy: a privileged guest may have moved some within one."""
    found: dict[int, None] = {}
    for directory in dict.fromkeys(record["groups"].values()):
        found.update(dict.fromkeys(filesystem.pids(directory)))
    return tuple(found)


def freeze(record: Record, *, frozen: bool) -> None:
    """Freeze or thaw, and wait until it is so; a group that is gone is as good as thawed.

    Raises:
        DriverError: Some process would not freeze in time (one in uninterruptible sleep, mostly); all are thawed.
        NotSupportedError: No freezer.
    """
    group = record["groups"].get("freezer")
    if group is None:
        raise NotSupportedError("pause: no freezer controller on this host")
    if not frozen and not os.path.exists(group):
        return
    wanted = _FROZEN if frozen else _THAWED
    # Written anew each time: a process forked in the middle keeps the group FREEZING until the next write.
    if filesystem.until(lambda: _set_state(group, wanted), timeout_s=_FREEZE_TIMEOUT_S):
        return
    filesystem.write(f"{group}/freezer.state", _THAWED)
    raise DriverError(
        f"freeze cgroup {group}: not frozen after {_FREEZE_TIMEOUT_S:.0f} s",
        hint="a process of it waits for a disk or a network filesystem",
    )


def _set_state(group: str, wanted: str) -> bool:
    filesystem.write(f"{group}/freezer.state", wanted)
    return filesystem.read(f"{group}/freezer.state").strip() == wanted


def kill(record: Record) -> None:
    """SIGKILL every process and return when none is left.

    Raises:
        DriverError: Some are left after all rounds; they are named.
    """
    for attempt in range(_KILL_ROUNDS):
        if not pids(record):
            return
        # cgroup.kill reaches also what is being forked at that moment (Linux 5.14); where it is not there, and for
        # processes that left the unified group, what is frozen can't fork while it is killed.
        if attempt > 0 or not _kill_at_once(record):
            _kill_frozen(record)
        _thaw(record)
        if filesystem.until(lambda: not pids(record), timeout_s=_KILL_ROUND_S):
            return
    left = pids(record)
    raise DriverError(
        f"kill cgroup {next(iter(record['groups'].values()))}: processes {', '.join(map(str, left))} do not end",
        hint="they wait for a disk or a network filesystem; they end when that answers",
    )


def _kill_at_once(record: Record) -> bool:
    group = record["groups"].get(UNIFIED)
    if group is None or not os.path.exists(f"{group}/cgroup.kill"):
        return False
    filesystem.write(f"{group}/cgroup.kill", "1")
    return True


def _kill_frozen(record: Record) -> None:
    group = record["groups"].get("freezer")
    if group is not None:
        _write_state(group, _FROZEN)
        filesystem.until(lambda: filesystem.read(f"{group}/freezer.state").strip() == _FROZEN, timeout_s=_KILL_ROUND_S)
    for pid in pids(record):
        _kill_member(record, pid)


def _kill_member(record: Record, pid: int) -> None:
    """Kill one process by a pidfd, after making sure that its number still means a process of the group."""
    try:
        pidfd = pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_member(record, pid):
            pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def _is_member(record: Record, pid: int) -> bool:
    group = os.path.basename(next(iter(record["groups"].values())))
    try:
        lines = filesystem.read(f"/proc/{pid}/cgroup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(group in line.split("/") for line in lines)


def _thaw(record: Record) -> None:
    """Let a frozen group take its signals."""
    group = record["groups"].get("freezer")
    if group is not None:
        _write_state(group, _THAWED)


def _write_state(group: str, state: str) -> None:
    try:
        filesystem.write_or_errno(f"{group}/freezer.state", state)
    except OSError as exc:
        if exc.errno not in {errno.ENOENT, errno.ENODEV}:
            raise  # a group that is gone holds nobody
