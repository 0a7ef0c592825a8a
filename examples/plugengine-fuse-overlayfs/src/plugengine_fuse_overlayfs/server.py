"""The file server: run fuse-overlayfs in the foreground, say when it has mounted, end when it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from plugengine.kernel.credentials import set_pdeathsig
from plugengine.kernel.mountinfo import read_mountinfo
from plugengine_fuse_overlayfs import PROGRAM

_MOUNTINFO: Final = "/proc/self/mountinfo"
_NOISE: Final = b"unknown argument ignored: lazytime\n"  # said by release 1.10 of its own default, at every start


def serve(config: Mapping[str, Any], ready: Callable[[], None]) -> int:
    """Run the program; return its exit code once the filesystem is unmounted."""
    mounts = os.open(_MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)  # what happens from now on makes it readable
    child = _start(config)
    assert child.stderr is not None
    poll = select.poll()
    poll.register(mounts, select.POLLPRI | select.POLLERR)  # proc_pid_mountinfo(5): a mount came or went
    poll.register(child.stderr, select.POLLIN)  # it said something, or ended
    speaks = True
    while speaks and not _is_mounted(config["target"]):
        if any(fd == child.stderr.fileno() for fd, _events in poll.poll()):
            speaks = _pass_on(child.stderr.readline())
    os.close(mounts)
    if speaks:
        ready()
    while _pass_on(child.stderr.readline()):
        pass
    return child.wait()


def arguments(config: Mapping[str, Any], lowers: list[int], upper: int, work: int) -> list[str]:
    """Return the command line.

    Directories are descriptors: 128 names would be long, and release 1.10 cuts them at each "," and ":", the latter
    without an escape. It resolves them to their real names at once. (And cuts the upper one's again: see the probe.)
    """
    options = [
        f"lowerdir={':'.join(map(_name, lowers))}",
        f"upperdir={_name(upper)}",
        f"workdir={_name(work)}",
        f"threaded={int(config['threaded'])}",
        *(() if config["fsync"] else ("fsync=0",)),
        *(("ro",) if config["read_only"] else ()),
    ]
    return [PROGRAM, "-f", "-o", ",".join(options), config["target"]]


def _start(config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    lowers = [_directory(path) for path in config["lowers"]]
    upper, work = _directory(config["upper"]), _directory(config["work"])
    own = os.getpid()

    def end_with_parent() -> None:
        set_pdeathsig(signal.SIGKILL)
        if os.getppid() != own:
            os._exit(1)

    try:
        return subprocess.Popen(
            arguments(config, lowers, upper, work),
            pass_fds=(*lowers, upper, work),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,  # a line is read when poll(2) says so
            preexec_fn=end_with_parent,  # this process has one thread
        )
    finally:
        for fd in (*lowers, upper, work):
            os.close(fd)


def _pass_on(line: bytes) -> bool:
    """Write a line to the server's log; tell whether there was one."""
    if line and line != _NOISE:
        sys.stderr.write(line.decode(errors="replace"))
    return bool(line)


def _is_mounted(target: str) -> bool:
    return any(entry.mount_point == target and entry.fstype.startswith("fuse.") for entry in read_mountinfo())


def _directory(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _name(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
