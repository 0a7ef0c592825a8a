"""The last things before exec: limits, user, capabilities, session, terminal, filter; in the only order that works."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
from typing import Final, NoReturn

from plugengine.kernel import credentials, tty
from plugengine.kernel.files import CLOSE_RANGE_CLOEXEC, CLOSE_RANGE_LAST, close_range, open_in_root
from plugengine.kernel.libc import os_error

from plugengine_runtime_native.child import program
from plugengine_runtime_native.child.report import (
    STAGE_CREDENTIALS,
    STAGE_DIRECTORY,
    STAGE_EXEC,
    STAGE_FIND,
    STAGE_LIMITS,
    STAGE_SECCOMP,
    STAGE_STDIO,
)
from plugengine_runtime_native.child.start import FileId, protect
from plugengine_runtime_native.prepared import Prepared

_CAP_SYS_ADMIN: Final = 1 << 21
_FIRST_FREE: Final = 3  # after standard input, output and error


class Finisher:
    """Turns a child that is inside the container into the command; `stage` says how far it has come.

    Args:
        process: The command.
        stdio: Its standard streams; None leaves those we have.
        terminal: Takes their place, or -1.
        ours: The engine's own program, which `find` refuses.
    """

    def __init__(
        self,
        process: Prepared,
        stdio: tuple[int, int, int] | None,
        terminal: int,
        ours: FileId | None = None,
    ) -> None:
        self._process = process
        self._stdio = (terminal, terminal, terminal) if terminal >= 0 else stdio
        self._terminal = terminal
        self._ours = ours
        self._found: program.Program | None = None
        self._filtered = False
        self.stage: int = STAGE_DIRECTORY

    def settle(self) -> None:
        """Take on the directory, limits, standard streams, user and capabilities of the plan."""
        process = self._process
        self.stage = STAGE_DIRECTORY
        entered = enter_directory(process.cwd, deferrable=True)
        self.stage = STAGE_LIMITS
        for number, soft, hard in process.rlimits:
            resource.setrlimit(number, (soft, hard))
        os.umask(process.umask)
        self._take_on()
        self.stage = STAGE_DIRECTORY
        if not entered:
            enter_directory(process.cwd, deferrable=False)
        verify_directory()

    def confine(self) -> None:
        """Take on the standard streams, user, capabilities and filter of the plan, where nothing else is to come."""
        self._take_on()
        self.close_door()

    def find(self) -> None:
        """Find the program, as the user it will run as.

        Raises:
            OSError: There is none, or it can't be executed.
        """
        self.stage = STAGE_FIND
        assert self._ours is not None  # noqa: S101 - who runs nothing finds nothing
        self._found = program.find(self._process, self._ours)

    def close_door(self) -> None:
        """Install the filter, and let go of the capability that needs; `launch` does so last, unless it is done."""
        self._filter()
        bits = self._bits()
        credentials.capset(bits, bits, 0)

    def launch(self) -> NoReturn:
        """Start a session, close the door and run the program that was found.

        Raises:
            OSError: It can't be run; there is no way back to the capabilities we had.
        """
        assert self._found is not None  # noqa: S101 - `find` comes before
        self.stage = STAGE_STDIO
        os.setsid()
        if self._terminal >= 0:
            tty.make_controlling(0)
        close_range(_FIRST_FREE, CLOSE_RANGE_LAST, CLOSE_RANGE_CLOEXEC)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not self._filtered:
            self._filter()
        self.stage = STAGE_EXEC
        program.run(self._found, self._process)

    def _take_on(self) -> None:
        self.stage = STAGE_STDIO
        if self._stdio is not None:
            self._connect(self._stdio)
        self.stage = STAGE_CREDENTIALS
        self._change_user()

    def _filter(self) -> None:
        self.stage = STAGE_SECCOMP
        if self._process.no_new_privs:
            credentials.set_no_new_privs()
        if self._process.seccomp is not None:
            credentials.seccomp_set_filter(self._process.seccomp)
        self._filtered = True

    def _bits(self) -> int:
        return self._process.capabilities if self._process.uid == 0 else 0

    def _connect(self, stdio: tuple[int, int, int]) -> None:
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        for number in range(_FIRST_FREE):
            self._give(number)

    def _give(self, fd: int) -> None:
        """Let the user open /dev/stdout again; only what was made for this container."""
        mode = os.fstat(fd).st_mode
        if self._process.uid and (self._terminal >= 0 or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            try:
                os.fchown(fd, self._process.uid, -1)
            except OSError as exc:
                # Made outside of our user namespace, or on a read-only filesystem.
                if exc.errno not in {errno.EPERM, errno.EINVAL, errno.EROFS}:
                    raise

    def _change_user(self) -> None:
        process = self._process
        for capability in range(process.last_capability + 1):
            if not process.capabilities >> capability & 1:
                credentials.capbset_drop(capability)
        credentials.setgroups(process.groups)
        credentials.setresgid(process.gid, process.gid, process.gid)
        credentials.set_keepcaps(enabled=True)
        credentials.setresuid(process.uid, process.uid, process.uid)
        bits = self._bits()
        # Without no_new_privs a filter needs CAP_SYS_ADMIN; execve(2) takes it away again, as user 0 gets the
        # bounding set and others nothing.
        kept = bits if process.seccomp is None or process.no_new_privs else bits | _CAP_SYS_ADMIN
        credentials.capset(kept, kept, 0)
        credentials.cap_ambient_clear_all()
        credentials.set_keepcaps(enabled=False)
        protect()


def enter_directory(path: bytes, *, deferrable: bool) -> bool:
    """Change to a directory of the container, not through the kernel's magic links: CVE-2024-21626.

    Returns:
        False where only the user, not root, may (a network filesystem), and it is `deferrable` until we are that user.
    """
    root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(fd)
        os.close(fd)
    except PermissionError:
        if not deferrable:
            raise
        return False
    finally:
        os.close(root)
    return True


def verify_directory() -> None:
    """Make sure that we stand inside the root; getcwd(3) has no path for what is outside: CVE-2024-21626."""
    path = os.getcwdb()
    if not path.startswith(b"/"):
        raise os_error(errno.EPERM, "getcwd", path, "outside of the container's root")
