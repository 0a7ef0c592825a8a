"""What a case must leave as it found it: processes, mounts, links and loop devices of its host."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Final

from msgspec import Struct

from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.kernel.mountinfo import MountEntry, mounts_at_or_below, read_mountinfo
from plugengine.model import HostPath

GRACE_S: Final = 8.0  # a process that was told to end may still be on its way out
KILL_S: Final = 10.0
_COMMAND_CHARACTERS: Final = 120
_ROUNDS: Final = 20


class HostState(Struct, frozen=True):
    """Mounts and links, as this process sees them."""

    mounts: dict[int, MountEntry]
    links: frozenset[str]

    @classmethod
    def read(cls) -> HostState:
        """Read the state now."""
        import socket

        return cls(
            {entry.mount_id: entry for entry in read_mountinfo()}, frozenset(name for _, name in socket.if_nameindex())
        )

    def changes_to(self, after: HostState) -> list[str]:
        """Say what is different afterwards, each a sentence without its subject."""
        new = [entry for number, entry in after.mounts.items() if number not in self.mounts]
        gone = [entry for number, entry in self.mounts.items() if number not in after.mounts]
        return [
            *(f"left a mount of {entry.fstype} on {entry.mount_point}" for entry in new),
            *(f"took away the mount of {entry.fstype} on {entry.mount_point}, which is not its own" for entry in gone),
            *(f"left the link {name}" for name in sorted(after.links - self.links)),
            *(f"took away the link {name}, which is not its own" for name in sorted(self.links - after.links)),
        ]


def loop_devices_below(directory: HostPath) -> list[str]:
    """Return the loop devices whose file lies below a directory, each with its file."""
    found: list[str] = []
    try:
        names = sorted(name for name in os.listdir("/sys/block") if name.startswith("loop"))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="surrogateescape") as stream:
                backing = stream.read().rstrip("\n")
        except OSError:  # not attached
            continue
        if backing.startswith(f"{directory}/"):
            found.append(f"left /dev/{name} attached to {backing}")
    return found


def mounts_escaped(pid: int, directory: HostPath) -> list[str]:
    """Return the mounts below a directory in the namespace of another process, where none may be."""
    return [
        f"left a mount of {entry.fstype} on {entry.mount_point} in the machine's own mount namespace"
        for entry in mounts_at_or_below(read_mountinfo(f"/proc/{pid}/mountinfo"), directory)
    ]


def detach_below(directory: HostPath) -> list[str]:
    """Detach every mount at or below a directory; say what stays, below which nothing may be removed."""
    for _ in range(_ROUNDS):
        left = mounts_at_or_below(read_mountinfo(), directory)
        if not left:
            return []
        for entry in left:
            try:
                umount2(entry.mount_point, MNT_DETACH)
            except OSError:  # under another one; the next round
                continue
    return [f"{entry.mount_point} cannot be unmounted" for entry in mounts_at_or_below(read_mountinfo(), directory)]


def children(pid: int) -> list[int]:
    """Return the children of a process, zombies included."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as stream:
                found += [int(word) for word in stream.read().split()]
    except ProcessLookupError:
        return found
    except FileNotFoundError:  # the process is gone, or a kernel without CONFIG_PROC_CHILDREN
        return [child for child in _processes() if _parent(child) == pid]
    return found


def describe(pid: int) -> str:
    """Return "pid (command)" of a process."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = os.fsdecode(stream.read().replace(b"\0", b" ")).strip()
        with open(f"/proc/{pid}/comm", "rb") as stream:
            name = os.fsdecode(stream.read()).strip()
    except OSError:
        return f"{pid}"
    if not words:
        return f"{pid} ({name})"
    shown = words if name and name in words else f"{name}: {words}"
    return f"{pid} ({shown[:_COMMAND_CHARACTERS]})"


def waiting_in(pid: int) -> str:
    """Return the kernel function a process sleeps in; empty if it does not or the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii") as stream:
            found = stream.read().strip()
    except OSError:
        return ""
    return "" if found == "0" else found


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and was not waited for."""
    fields = _stat(pid)
    return not fields or fields[0] in (b"Z", b"X")


def reap() -> None:
    """Wait for the children of this process that have ended."""
    while True:
        try:
            if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is None:
                return
        except ChildProcessError:
            return


def wait_for_children(seconds: float) -> list[int]:
    """Give the children of this process time to end; return those that still run."""
    deadline = time.monotonic() + seconds
    while True:
        reap()
        alive = children(os.getpid())
        if not alive or time.monotonic() >= deadline:
            return alive
        _wait_for_one(alive, deadline)


def kill_children() -> list[str]:
    """Kill every descendant of this process, which is their subreaper; say which will not die.

    Only children are killed, because nobody else can wait for them and so their ids are theirs. Their own children
    become ours as they die.
    """
    deadline = time.monotonic() + KILL_S
    while True:
        reap()
        alive = children(os.getpid())
        if not alive:
            return []
        if time.monotonic() >= deadline:
            return [f"the process {describe(pid)} cannot be killed, it is in {waiting_in(pid)}" for pid in alive]
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        _wait_for_one(alive, deadline)


def _wait_for_one(pids: list[int], deadline: float) -> None:
    poll = select.poll()
    opened = [os.pidfd_open(pid) for pid in pids]  # children of ours: there until we wait for them
    for pidfd in opened:
        poll.register(pidfd, select.POLLIN)
    poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    for pidfd in opened:
        os.close(pidfd)


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:  # a driver has changed the root directory
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    """Return the fields from (3) state on; none if the process is gone or there is no /proc. See proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            content = stream.read()
    except OSError:
        return []
    return content[content.rindex(b")") + 2 :].split()
