"""The first process of a container with `--init`: passes signals on, reaps orphans, ends with its command."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

import msgspec
from plugengine.kernel import credentials
from plugengine.kernel.libc import MACHINE

from plugengine_runtime_native.child import native, start
from plugengine_runtime_native.child.finish import Finisher
from plugengine_runtime_native.prepared import Prepared

_CAP_KILL: Final = 1 << 5
_SIGNALLED: Final = 128
_STREAMS: Final = (0, 1, 2)
_NAME: Final = b"init"
_PROGRAM: Final = native.elf(MACHINE)


def block_signals() -> None:
    """Hold every signal back, before the fork.

    For the first process of a pid namespace the kernel throws away what is neither handled nor blocked.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def reap(command: int, process: Prepared, stdio: tuple[int, int, int] | None, terminal: int) -> NoReturn:
    """Serve as init until `command` (a pid) ends, then exit with its code; the kernel kills what is left.

    It is of the command's user, holds the command's streams, so that /proc/1/fd/1 is the container's output for whoever
    may look, and is bound by the command's filter. Of the capabilities it has at most CAP_KILL, to signal processes of
    any user: a container that may trace processes gains nothing by taking it over.
    """
    os.setsid()
    credentials.set_child_subreaper(enabled=True)  # without a pid namespace of our own nobody else would reap here
    # For user 0 execve(2) gives what the bounding set holds: the same again.
    ours = msgspec.structs.replace(process, capabilities=process.capabilities & _CAP_KILL)
    Finisher(ours, stdio, terminal).confine()
    start.protect()
    _become_native(command)
    _serve(command)


def _become_native(command: int) -> None:
    """Run the small program in our place: an interpreter would hold megabytes, and the engine's memory.

    Returns where this machine has no such program, or does not let it run.
    """
    if _PROGRAM is None:
        return
    try:
        fd = native.open_init(_PROGRAM)
        start.close_all_but((*_STREAMS, fd))
        os.execve(fd, (_NAME, b"%d" % command), {})  # noqa: S606
    except OSError:
        pass


def _serve(command: int) -> NoReturn:
    start.close_all_but(_STREAMS)
    credentials.set_name(_NAME)
    awaited = signal.valid_signals()
    while True:
        number = signal.sigwait(awaited)
        if number == signal.SIGCHLD:
            _reap_all(command)
        else:
            _forward(command, number)


def _reap_all(command: int) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == command:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNALLED - code)


def _forward(command: int, number: int) -> None:
    try:
        os.kill(command, number)
    except OSError:
        pass  # it has just ended; SIGCHLD is next
