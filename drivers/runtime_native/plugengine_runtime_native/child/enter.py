"""The life of a process that joins a running container, from fork to exec."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

from plugengine.kernel import process as kernel_process
from plugengine.kernel.files import RESOLVE_NO_SYMLINKS, open_in_root

from plugengine_runtime_native.child import start
from plugengine_runtime_native.child.finish import Finisher
from plugengine_runtime_native.child.mounts import open_terminal
from plugengine_runtime_native.child.report import (
    EXIT_FAILED,
    STAGE_CGROUP,
    STAGE_FORK,
    STAGE_JOIN,
    STAGE_START,
    STAGE_TERMINAL,
    STAGE_USER_NAMESPACE,
    Reporter,
    exit_code,
)
from plugengine_runtime_native.prepared import Prepared

# The user namespace first, as it gives the right to the others; pid and time act on children.
_NAMESPACES: Final = (
    ("user", kernel_process.CLONE_NEWUSER),
    ("mnt", kernel_process.CLONE_NEWNS),
    ("uts", kernel_process.CLONE_NEWUTS),
    ("ipc", kernel_process.CLONE_NEWIPC),
    ("pid", kernel_process.CLONE_NEWPID),
    ("cgroup", kernel_process.CLONE_NEWCGROUP),
    ("net", kernel_process.CLONE_NEWNET),
    ("time", kernel_process.CLONE_NEWTIME),
)


def namespaces_of(pid: int) -> int:
    """Return the CLONE_NEW* of the namespaces in which a process is and we are not; called in the parent."""
    flags = 0
    for name, flag in _NAMESPACES:
        try:
            theirs = os.stat(f"/proc/{pid}/ns/{name}")
        except FileNotFoundError:
            continue  # the kernel has no such namespaces, or the process is gone and setns(2) will say so
        if not os.path.samestat(theirs, os.stat(f"/proc/self/ns/{name}")):
            flags |= flag
    return flags


def become_exec(
    process: Prepared,
    *,
    pidfd: int,
    namespaces: int,
    go_fd: int,
    report_fd: int,
    stdio: tuple[int, int, int] | None = None,
    enter: tuple[int, ...] = (),
) -> NoReturn:
    """Join a container and become one more process of it; called in a forked child, never returns.

    A second fork is needed to be in the pid namespace. Its child is the caller's child too (CLONE_PARENT) and is
    reported as PROCESS; this process ends and is reaped by the caller as well. All that needs privilege is done
    before that fork, where no process of the container can see us. What comes after it is not dumpable, which keeps
    out all but a container that has CAP_SYS_PTRACE in the host's user namespace: for that the filter is installed
    before the fork too.

    Args:
        process: Of `prepared.prepare`.
        pidfd: Of the container's first process.
        namespaces: Of `namespaces_of`, taken while `pidfd` is known to be alive.
        go_fd: As for `become_init`; by the byte the parent has moved us to the container's cgroup.
        report_fd: As for `become_init`.
        stdio: As for `become_init`.
        enter: As for `become_init`.
    """
    stage = STAGE_START
    failure: BaseException
    reporter: Reporter | None = None
    finisher: Finisher | None = None
    try:
        reporter = Reporter(report_fd)
        streams = (0, 1, 2) if stdio is None else stdio
        start.isolate((*streams, pidfd, go_fd, report_fd, *enter))
        stage = STAGE_CGROUP
        start.enter_cgroups(enter)
        stage = STAGE_START
        ours = start.own_program()
        start.wait(go_fd)
        stage = STAGE_JOIN
        _join(pidfd, namespaces)
        os.close(pidfd)
        if namespaces & kernel_process.CLONE_NEWUSER:
            stage = STAGE_USER_NAMESPACE
            start.become_root()
        stage = STAGE_TERMINAL
        terminal = _terminal(reporter) if process.tty else -1
        finisher = Finisher(process, stdio, terminal, ours)
        finisher.settle()
        finisher.find()
        if process.traceable:
            finisher.close_door()
        finisher.stage = STAGE_FORK
        _fork_inside(reporter)
        finisher.launch()
    except BaseException as exc:  # noqa: BLE001 - nothing above us could handle it: this is a forked child
        failure = exc
    if finisher is not None:
        stage = finisher.stage
    if reporter is None:
        os._exit(EXIT_FAILED)
    reporter.failed(stage, failure)
    os._exit(exit_code(stage, failure))


def _join(pidfd: int, namespaces: int) -> None:
    """Join all at once where the kernel can, so that every right is checked with what we have outside."""
    try:
        kernel_process.setns(pidfd, namespaces)
    except OSError:
        for _name, flag in _NAMESPACES:
            if namespaces & flag:
                kernel_process.setns(pidfd, flag)
    os.chdir(b"/")


def _terminal(reporter: Reporter) -> int:
    root = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # A link here would be the container's doing.
    devpts = open_in_root(root, b"/dev/pts", os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    os.close(root)
    master, terminal = open_terminal(devpts)
    reporter.terminal(master)
    os.close(master)
    os.close(devpts)
    return terminal


def _fork_inside(reporter: Reporter) -> None:
    """Return in the process that is inside the pid namespace; the other one ends here."""
    # CLONE_PARENT takes the exit signal of this process, clone3(2) wants none of its own.
    pid, pidfd = kernel_process.clone3(kernel_process.CLONE_PARENT, exit_signal=0)
    if pid:
        reporter.process(pid, pidfd)
        os._exit(0)
    start.protect()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
