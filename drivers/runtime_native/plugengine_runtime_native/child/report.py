"""What a child tells its parent: one packet per message on a socket, closed by a successful exec."""

from __future__ import annotations

import errno
import os
import socket
from struct import Struct as Layout
from typing import Final, NamedTuple

from plugengine.errors import CommandNotFoundError, DriverError, NotExecutableError, PlugengineError
from plugengine.kernel.machine import platform
from plugengine.kernel.rlimits import RLIMITS

from plugengine_runtime_native.inside import InsidePlan
from plugengine_runtime_native.prepared import Prepared

# kinds
ERROR: Final = 1  # the child gives up; stage, number: errno
WARNING: Final = 2  # something optional is missing; the same
TERMINAL: Final = 3  # fd: the pty's master
PROCESS: Final = 4  # exec only: number: pid on the host, fd: pidfd

# stages; a step of the plan is its index
STAGE_START: Final = -1
STAGE_USER_NAMESPACE: Final = -2
STAGE_CGROUP_NAMESPACE: Final = -3
STAGE_JOIN: Final = -4
STAGE_FORK: Final = -5
STAGE_TERMINAL: Final = -6
STAGE_DIRECTORY: Final = -7
STAGE_LIMITS: Final = -8
STAGE_STDIO: Final = -9
STAGE_CREDENTIALS: Final = -10
STAGE_FIND: Final = -11
STAGE_SECCOMP: Final = -12
STAGE_EXEC: Final = -13
STAGE_CGROUP: Final = -14

_STAGES: Final = {
    STAGE_START: "start the first process",
    STAGE_CGROUP: "enter the container's cgroup",
    STAGE_USER_NAMESPACE: "become root of the user namespace",
    STAGE_CGROUP_NAMESPACE: "make the cgroup namespace",
    STAGE_JOIN: "join the container's namespaces",
    STAGE_FORK: "fork inside the container",
    STAGE_TERMINAL: "open a terminal inside the container",
    STAGE_DIRECTORY: "change to the working directory",
    STAGE_LIMITS: "set resource limits",
    STAGE_STDIO: "connect standard input and output",
    STAGE_CREDENTIALS: "change user and capabilities",
    STAGE_FIND: "run",
    STAGE_SECCOMP: "install the seccomp filter",
    STAGE_EXEC: "run",
}

_RLIMIT_NAMES: Final = {number: name for name, number in RLIMITS.items()}

EXIT_FAILED: Final = 125
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND: Final = 127

_LAYOUT: Final = Layout("=iiii")  # kind, stage, errno or pid, an unused word
_DESCRIPTOR: Final = Layout("@i")
_TEXT_BYTES: Final = 1024


class Report(NamedTuple):
    """One message; whoever reads it owns `fd`."""

    kind: int
    stage: int
    number: int
    text: str
    fd: int


class Reporter:
    """The child's end. Only made of what is loaded: `socket.send_fds` imports a module when it is called."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def failed(self, stage: int, exc: BaseException, *, kind: int = ERROR) -> None:
        """Send an error; a parent that is gone is not told."""
        number = (exc.errno or 0) if isinstance(exc, OSError) else 0
        if isinstance(exc, OSError):
            text = f"{exc.strerror} ({exc.filename})" if exc.filename else str(exc.strerror)
        else:
            text = f"{type(exc).__name__}: {exc}"
        try:
            self._send(kind, stage, number, os.fsencode(text)[:_TEXT_BYTES])
        except OSError:
            pass

    def terminal(self, master: int) -> None:
        """Hand the master of the pty over."""
        self._send(TERMINAL, STAGE_TERMINAL, 0, b"", master)

    def process(self, pid: int, pidfd: int) -> None:
        """Say which process stays, in the parent's numbers."""
        self._send(PROCESS, STAGE_FORK, pid, b"", pidfd)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _send(self, kind: int, stage: int, number: int, text: bytes, fd: int = -1) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(fd))] if fd >= 0 else []
        self._socket.sendmsg([_LAYOUT.pack(kind, stage, number, 0) + text], ancillary, socket.MSG_NOSIGNAL)


def read_report(fd: int) -> Report | None:
    """Read one message on the parent's end; None once the child has become the command, or has died.

    Raises:
        BlockingIOError: The descriptor is non-blocking and there is no message.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    try:
        data, ancillary, _flags, _address = connection.recvmsg(
            _LAYOUT.size + _TEXT_BYTES, socket.CMSG_SPACE(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return None
    finally:
        connection.detach()
    if len(data) < _LAYOUT.size:
        return None
    received = [_DESCRIPTOR.unpack_from(content)[0] for _level, _type, content in ancillary]
    kind, stage, number, _unused = _LAYOUT.unpack_from(data)
    return Report(kind, stage, number, os.fsdecode(data[_LAYOUT.size :]), received[0] if received else -1)


def explain(report: Report, process: Prepared, plan: InsidePlan | None = None) -> PlugengineError:
    """Return the exception for an ERROR (or the words for a WARNING): what was tried, on what, and why it failed."""
    if report.stage in {STAGE_FIND, STAGE_EXEC}:
        return _command_error(report, os.fsdecode(process.argv[0]), process.foreign)
    if report.stage >= 0 and plan is not None:
        what = plan.steps[report.stage].describe()
    else:
        what = _STAGES.get(report.stage, f"stage {report.stage}")
    if report.stage == STAGE_DIRECTORY:
        what = f"{what} {os.fsdecode(process.cwd)}"
    if report.stage == STAGE_LIMITS and process.rlimits:
        what = f"{what} {' '.join(_RLIMIT_NAMES[number] for number, _soft, _hard in process.rlimits)}"
    full = report.stage == STAGE_FORK and report.number == errno.EAGAIN
    return DriverError(f"{what}: {report.text}", hint="its --pids-limit is reached" if full else None)


def _command_error(report: Report, name: str, foreign: str) -> PlugengineError:
    text = report.text.removesuffix(f" ({name})")
    if report.number == errno.ENOENT:
        hint = None if "/" in name else "it is in no directory of the container's PATH"
        if report.stage == STAGE_EXEC:
            hint = "the file is there, but not the loader it was linked with (readelf -l shows which)"
        return CommandNotFoundError(f"run {name}: {text}", hint=hint)
    return NotExecutableError(
        f"run {name}: {text}", hint=_no_program(foreign) if report.number == errno.ENOEXEC else None
    )


def _no_program(foreign: str) -> str:
    if not foreign:
        return "the file is for another machine, or no program at all"
    return (
        f"the image is for {foreign}, and this machine is {platform()}: take the image for this machine,"
        " or install an emulator (qemu-user-static with binfmt_misc)"
    )


def exit_code(stage: int, exc: BaseException) -> int:
    """Return what a child that gives up exits with; see docker's reference of `docker run`, exit status."""
    if stage not in {STAGE_FIND, STAGE_EXEC}:
        return EXIT_FAILED
    missing = isinstance(exc, OSError) and exc.errno == errno.ENOENT
    return EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE
