"""The first process of a container with `--init`: passes signals on, reaps orphans, ends with its command."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

from plugengine.child.start import close_all_but
from plugengine.guest.process import ProcessPlan
from plugengine.kernel import credentials

_CAP_KILL: Final = 1 << 5
_SIGNALLED: Final = 128
_NAME: Final = b"init"


def block_signals() -> None:
    """Hold every signal back, before the fork.

    For the first process of a pid namespace the kernel throws away what is neither handled nor blocked.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())


def reap(command: int, process: ProcessPlan) -> NoReturn:
    """Serve as init until `command` (a pid) ends, then exit with its code; the kernel kills what is left.

    Init is an interpreter with the engine's memory in it. It is closed to the container, and as a container that may
    trace processes could still take it over, it is bound by the same filter and bounding set as the command.
    """
    # Whoever waits for the end of the command's output must not wait for ours.
    close_all_but(())
    os.setsid()
    credentials.set_name(_NAME)
    for capability in process.dropped:
        credentials.capbset_drop(capability)
    if process.no_new_privs:
        credentials.set_no_new_privs()
    if process.seccomp is not None:
        credentials.seccomp_set_filter(process.seccomp)
    # Processes of any user may be signalled, and nothing else.
    credentials.capset(_CAP_KILL, _CAP_KILL, 0)
    credentials.set_dumpable(enabled=False)
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
