"""The first things a child does: nobody may look into it, and it holds nothing it does not need."""

from __future__ import annotations

import errno
import gc
import os
import signal
from collections.abc import Iterable
from typing import Final

from plugengine.kernel import credentials
from plugengine.kernel.attributes import statx
from plugengine.kernel.files import AT_FDCWD, CLOSE_RANGE_LAST, close_range
from plugengine.kernel.keyring import join_session_keyring
from plugengine.kernel.process import default_action

from plugengine_runtime_native.child.report import EXIT_FAILED

# signal(7): glibc refuses to change them, but its posix_spawn(3), which made an ancestor of ours, ignores them.
_OF_THE_C_LIBRARY: Final = (32, 33)

FileId = tuple[int, int, int | None]  # device, inode, mount


def isolate(keep: Iterable[int]) -> None:
    """Close the process to others, and everything of the parent's to it.

    Not dumpable, so that no process of the container can read or trace it once it is inside: CVE-2016-9962,
    CVE-2019-5736. Of the descriptors only `keep` stays: CVE-2024-21626.
    """
    protect()
    # Objects of the parent still believe in their descriptors, whose numbers will be used again.
    gc.disable()
    close_all_but(keep)
    reset_signals()
    leave_keys()
    os.umask(0)


def protect() -> None:
    """Be unreadable and end with the parent; to be repeated after every change of ids, which takes both back.

    See commit_creds in kernel/cred.c.
    """
    credentials.set_dumpable(enabled=False)
    credentials.set_pdeathsig(signal.SIGKILL)


def enter_cgroups(tasks: tuple[int, ...]) -> None:
    """Move ourselves into the container's groups, which costs a twentieth of being moved; see `CgroupEntry`."""
    for fd in tasks:
        os.write(fd, b"0")
        os.close(fd)


def wait(go_fd: int) -> None:
    """Wait until the parent has done its part: maps, cgroup, network. A parent that is gone ends us."""
    if not os.read(go_fd, 1):
        os._exit(EXIT_FAILED)
    os.close(go_fd)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for fd in sorted(set(keep)):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first, CLOSE_RANGE_LAST)


def reset_signals() -> None:
    """Give every signal its default action: what is ignored stays so over execve(2), as Python's SIGPIPE would."""
    for number in range(1, signal.NSIG):
        try:
            if signal.getsignal(number) is not signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP, and those below
    for number in _OF_THE_C_LIBRARY:
        default_action(number)


def leave_keys() -> None:
    """Have a session keyring of our own: the one inherited holds what root of the host has, tickets and all.

    Made while we are the host's root, whose quota is large; any other user's is 200 keys, see keyrings(7).
    """
    try:
        join_session_keyring()
    except OSError as exc:
        # A kernel without keys, or a filter around the engine that keeps everybody from them.
        if exc.errno not in {errno.ENOSYS, errno.EPERM}:
            raise


def own_program() -> FileId:
    """Identify the interpreter that runs us, as reached through the host's mount; taken while that is visible."""
    path = b"/proc/self/exe"
    status = os.stat(path)
    return status.st_dev, status.st_ino, statx(AT_FDCWD, path, 0)[1]


def become_root() -> None:
    """Become user 0 of the user namespace we are in; until then we are nobody there, though able."""
    credentials.setgroups([])
    credentials.setresgid(0, 0, 0)
    credentials.setresuid(0, 0, 0)
    protect()
