"""The process a case runs in: a session, streams and signals of its own, as the monitor of a container has them."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from typing import Final, NoReturn

from plugengine.kernel import credentials
from plugengine.model import HostPath
from plugengine.testing.isolation import Work, send
from plugengine.testing.leaks import Board

TRACE_SIGNAL: Final = signal.SIGRTMAX - 1
_DEFAULT_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


def perform(work: Work, scratch: HostPath, board: Board, *, trace: int, log: HostPath, pipe: int) -> NoReturn:
    """Do the work and write its result to a pipe.

    Args:
        work: What to do.
        scratch: Handed on.
        board: Handed on.
        trace: Descriptor of a file that gets the stacks of all threads at TRACE_SIGNAL, and when it crashes.
        log: File that gets what is written to standard output and error.
        pipe: Descriptor to report to.
    """
    try:
        own = os.getpid()
        os.setsid()
        for number in _DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        credentials.set_pdeathsig(signal.SIGKILL)
        _redirect(log)
        # In C, and so also while the interpreter waits in a system call, or when it crashes.
        faulthandler.enable(file=trace, all_threads=True)
        faulthandler.register(TRACE_SIGNAL, file=trace, all_threads=True)
        result = work.run(scratch, board)
        if os.getpid() == own:  # not a child that forgot to leave
            send(pipe, result)
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


def _redirect(path: HostPath) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    # What the caller has in place of them (a test runner's, say) would write somewhere else.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
