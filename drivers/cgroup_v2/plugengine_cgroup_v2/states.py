"""Freeze, thaw and kill all processes of a group."""

from __future__ import annotations

import os

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError
from plugengine.kernel.process import SIGKILL, pidfd_open, pidfd_send_signal
from plugengine.model import Record

# Linux 5.14; it reaches also what is being forked at that moment
_KILL_FILE = "cgroup.kill"

_FREEZE_TIMEOUT_S = 10.0
_KILL_ROUNDS = 40
_KILL_ROUND_S = 0.25


def pids(record: Record) -> tuple[int, ...]:
    """Return the processes of the group and its descendants."""
    return filesystem.pids(record["group"])


def freeze(record: Record, *, frozen: bool) -> None:
    """Freeze or thaw, and wait until it is so; a group that is gone is as good as thawed.

    Raises:
        DriverError: Some process would not freeze in time; all are thawed.
    """
    group = record["group"]
    if not frozen and not os.path.exists(group):
        return
    filesystem.write(f"{group}/cgroup.freeze", str(int(frozen)))
    if filesystem.until(lambda: _is_frozen(group) == frozen, timeout_s=_FREEZE_TIMEOUT_S):
        return
    filesystem.write(f"{group}/cgroup.freeze", "0")
    raise DriverError(
        f"freeze cgroup {group}: not frozen after {_FREEZE_TIMEOUT_S:.0f} s",
        hint="a process of it waits for a disk or a network filesystem",
    )


def _is_frozen(group: str) -> bool:
    return filesystem.keyed(filesystem.read(f"{group}/cgroup.events")).get("frozen") == 1


def kill(record: Record) -> None:
    """SIGKILL every process, also frozen ones, and return when none is left.

    Raises:
        DriverError: Some are left after all rounds; they are named.
    """
    group = record["group"]
    for _ in range(_KILL_ROUNDS):
        if not pids(record):
            return
        if os.path.exists(f"{group}/{_KILL_FILE}"):
            filesystem.write(f"{group}/{_KILL_FILE}", "1")
        else:
            _kill_frozen(group)
        if filesystem.until(lambda: not pids(record), timeout_s=_KILL_ROUND_S):
            return
    left = pids(record)
    raise DriverError(
        f"kill cgroup {group}: processes {', '.join(map(str, left))} do not end",
        hint="they wait for a disk or a network filesystem; they end when that answers",
    )


def _kill_frozen(group: str) -> None:
    """Kill what can't fork meanwhile: a frozen process of version 2 dies of SIGKILL without being thawed."""
    filesystem.write(f"{group}/cgroup.freeze", "1")
    filesystem.until(lambda: _is_frozen(group), timeout_s=_KILL_ROUND_S)
    for pid in filesystem.pids(group):
        try:
            pidfd = pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if os.path.basename(group) in _group_of(pid).split("/"):
                pidfd_send_signal(pidfd, SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)


def _group_of(pid: int) -> str:
    try:
        lines = filesystem.read(f"/proc/{pid}/cgroup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
