"""Become a container's monitor: leave the caller, start the container, serve until it has ended."""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from plugengine.containers.failed_start import not_loaded
from plugengine.errors import ConflictError, PlugengineError
from plugengine.kernel import credentials, files, mount, process
from plugengine.kernel.process import ProcessId
from plugengine.monitor.supervisor import Supervisor
from plugengine.monitor.task import Task
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.streams import wire

# What callers commonly handle, and what the end of a terminal or session sends.
_HANDLED: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGWINCH, signal.SIGALRM, signal.SIGCONT)
_IGNORED: Final = (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP)


def spawn(site: Site, task: Task, *, prepare: Callable[[], None]) -> socket.socket:
    """Fork the monitor of a container whose row is "starting" and owned by this process.

    Args:
        site: Where.
        task: What it is to do.
        prepare: Called before the fork: imports what the monitor will need, so that its pages are shared.

    Returns:
        A connection to the monitor, which sends "started" or "error" first.
    """
    ours, theirs = socket.socketpair()
    try:
        spare, site.spare = site.spare, None
        if spare is not None and spare.hand_over(task, theirs):
            return ours
        if threading.active_count() > 1:
            _spawn_alone(site, task, theirs)
        else:
            prepare()
            _fork(site, task, ours, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


def _fork(site: Site, task: Task, ours: socket.socket, theirs: socket.socket) -> None:
    pid = os.fork()
    if pid == 0:
        # A caller that lives on has the monitor for a grandchild: init reaps it, and the caller never finds a child
        # it did not make. One that is about to end needs no process in between.
        try:
            if site.short_lived or os.fork() == 0:
                ours.close()
                serve(site, task, theirs)
        finally:
            os._exit(0)
    if not site.short_lived:
        os.waitpid(pid, 0)


def _spawn_alone(site: Site, task: Task, connection: socket.socket) -> None:
    """Start the monitor in a new interpreter: after a fork other threads' locks would stay locked; see fork(2)."""
    from plugengine.monitor import alone
    from plugengine.monitor.task import write

    words = [sys.executable, "-m", alone.__name__, site.locations.root, site.locations.run_root]
    written = write(task)
    try:
        places = ((connection.fileno(), alone.CONNECTION), (written, alone.TASK))
        # Through copies above both, as one may lie where the other is to be.
        copies = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, alone.TASK + 1), place) for fd, place in places]
        actions = [(os.POSIX_SPAWN_DUP2, copy, place) for copy, place in copies]
        pid = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsigmask=())
        for copy, _place in copies:
            os.close(copy)
    finally:
        os.close(written)
    os.waitpid(pid, 0)  # it forks and leaves at once


def serve(site: Site, task: Task, connection: socket.socket) -> NoReturn:
    """Be the monitor of a container, in a process of its own that nobody waits for; never returns."""
    try:
        site.state.close()  # its descriptors are about to be closed
        connection = cut_ties(connection)
        supervise(site, task, connection)
    finally:
        os._exit(1)


def supervise(site: Site, task: Task, connection: socket.socket) -> NoReturn:
    """Take the container over from its caller, and see it through to its end; for a process without other ties."""
    code = 1
    supervisor: Supervisor | None = None
    try:
        _open_log(site, task.row)
        faulthandler.enable(2)  # a driver may crash this process
        try:
            _take_over(site, task.row, task.owner)
            supervisor = _supervisor(site, task, connection)
            code = supervisor.run()
        except PlugengineError as exc:
            report(connection, exc)
            connection.close()
        if supervisor is not None:
            supervisor.finish()
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _supervisor(site: Site, task: Task, connection: socket.socket) -> Supervisor:
    """Return who is to run the container; where its drivers cannot be loaded, the row is as it was before."""
    try:
        return Supervisor(site, task, connection)
    except PlugengineError as exc:
        not_loaded(site, task.row, exc)
        raise


def report(connection: socket.socket, exc: PlugengineError) -> None:
    """Send an error as the caller will raise it again."""
    try:
        connection.setblocking(True)
        connection.sendall(wire.pack_error(wire.EVENT, exc))
    except OSError:
        pass


def cut_ties(connection: socket.socket) -> socket.socket:
    """Leave the caller's session, descriptors, directory, signals and mounts; return what `connection` is then."""
    # What the caller left behind must not be freed here: its descriptors' numbers are used again.
    gc.freeze()
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    kept = os.dup(connection.detach())
    for target in (0, 1, 2):
        os.dup2(null, target, inheritable=False)
    if kept != 3:
        os.dup2(kept, 3, inheritable=False)
    files.close_range(4)
    sys.stdin = sys.stdout = None
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    credentials.set_name(b"pe-monitor")
    credentials.set_child_subreaper(enabled=True)
    # The container's mounts live in a namespace of their own: when monitor and container are gone, so are they.
    process.unshare(process.CLONE_NEWNS)
    mount.mount("none", "/", "", mount.MS_REC | mount.MS_SLAVE)
    return socket.socket(fileno=3)


def _open_log(site: Site, row: ContainerRow) -> None:
    """Let this process's words, of which there should be none, go to the container's directory."""
    log = os.open(site.locations.monitor_log(row.id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 2, inheritable=False)
    os.close(log)


def _take_over(site: Site, row: ContainerRow, owner: ProcessId) -> None:
    """Become the owner in the caller's place, in one transaction: it may have died, and another be repairing."""
    me = ProcessId.of(os.getpid())
    if me is None or not container_rows.change_owner(site.state, row, owner, me):
        raise ConflictError(f"container {row.name}: somebody else took it over while it was starting")
