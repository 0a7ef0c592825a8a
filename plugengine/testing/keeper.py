"""The process that watches over a case: its host, the parent of all it leaves running, and the one that clears up."""

from __future__ import annotations

import codecs
import os
import select
import signal
import time
import traceback
from contextlib import ExitStack
from typing import Final, NoReturn

import msgspec
from msgspec.structs import replace

from plugengine.errors import StateError
from plugengine.kernel import credentials
from plugengine.kernel.files import AT_FDCWD, AT_RECURSIVE
from plugengine.kernel.links import link_up
from plugengine.kernel.mount import (
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    mount,
    move_mount,
    open_tree,
)
from plugengine.kernel.process import CLONE_NEWNET, CLONE_NEWNS, unshare
from plugengine.model import HostPath
from plugengine.testing import groups, host_state, worker
from plugengine.testing.host_state import HostState
from plugengine.testing.isolation import Ground, Result, Work, ending, send
from plugengine.testing.leaks import Board
from plugengine.testing.outcome import Verdict
from plugengine.testing.protection import protect_all_but
from plugengine.trees.remove import remove_tree

_TRACE_WAIT_S: Final = 0.5
_SETTLE_S: Final = 0.02
_LINKS_S: Final = 20.0  # cleanup_net() of the kernel is one worker for the machine
_READ_BYTES: Final = 1 << 16
_LOG_BYTES: Final = 8000
_LOG_FILES: Final = 8
_LOG_DEPTH: Final = 4
_GROUPS: Final = "/sys/fs/cgroup"

# Looked up before the fork: to import in a forked process may fail with KeyError (_ModuleLock of Python 3.11).
codecs.lookup("ascii")


class _EndedError(Exception):
    """Somebody wants the work to end."""


def keep(work: Work, ground: Ground, pipe: int, parent: int) -> NoReturn:
    """Be the keeper of a piece of work, and write its result to a pipe."""
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, _raise_ended)
        credentials.set_pdeathsig(signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that could be noticed
            os._exit(1)
        credentials.set_child_subreaper(enabled=True)
        credentials.set_name(b"pe-kit")
        send(pipe, _keep(_Keeper(work, ground, parent)))
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        os._exit(0)


def _keep(keeper: _Keeper) -> Result:
    try:
        return keeper.run()
    except _EndedError:
        keeper.end()
        os._exit(1)
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        message = f"prepare the ground of the case: {where}{exc.strerror}"
        return Result(verdict=Verdict.FAILED, message=message, traceback=traceback.format_exc())


def _raise_ended(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _EndedError


class _Keeper:
    """Watches over one piece of work."""

    def __init__(self, work: Work, ground: Ground, parent: int) -> None:
        self._work = work
        self._parent = parent
        self._ground = ground
        self._worker = 0
        self._board = Board()
        self._trace = os.memfd_create("trace")
        self._directory = HostPath(f"{ground.directory}/{work.name}")
        self._log = HostPath(f"{self._directory}/output")

    def run(self) -> Result:
        """Do it all."""
        self._make_namespaces()
        scratch = HostPath(f"{self._directory}/s")
        os.makedirs(scratch)
        before = HostState.read()
        started = time.monotonic()
        result = self._watch(scratch)
        duration = time.monotonic() - started
        failed = result.verdict is Verdict.FAILED
        leaks = [*result.leaks, *self._stop_processes(may_run=failed)]
        left_groups = groups.remove(self._worker)
        leaks += [] if failed else left_groups
        leaks += _changes_since(before)
        log = result.log or (self._read_logs() if failed or leaks else "")
        leaks += self._clear()
        verdict = Verdict.FAILED if leaks else result.verdict
        return replace(result, verdict=verdict, leaks=tuple(leaks), log=log, duration_s=duration)

    def end(self) -> None:
        """End it before it is done; the directory goes with that of the run."""
        groups.thaw(self._worker)
        host_state.kill_children()
        groups.remove(self._worker)

    def _make_namespaces(self) -> None:
        network = self._ground.private_network
        unshare(CLONE_NEWNS | (CLONE_NEWNET if network else 0))
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        if network:
            link_up("lo")
            _show_network_in_sysfs()
        if self._ground.device is not None:
            mount(self._ground.device, self._ground.directory, self._ground.fstype)
        if self._ground.protected:
            protect_all_but(self._ground.directory)

    def _watch(self, scratch: HostPath) -> Result:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            worker.perform(self._work, scratch, self._board, trace=self._trace, log=self._log, pipe=write_end)
        self._worker = pid
        os.close(write_end)
        pidfd = os.pidfd_open(pid)
        with ExitStack() as undo:
            undo.callback(os.close, read_end)
            undo.callback(os.close, pidfd)
            content = self._read(read_end, pidfd)
        if content is None:
            return self._expired(pid)
        _, status = os.waitpid(pid, 0)
        if not content:
            how = ending(os.waitstatus_to_exitcode(status))
            message = f"the process of the case {how}{self._where()}"
            return Result(verdict=Verdict.FAILED, message=message, traceback=self._read_trace())
        return msgspec.json.decode(content, type=Result)

    def _read(self, pipe: int, pidfd: int) -> bytes | None:
        """Return what the worker wrote until it ended; None: it is late."""
        deadline = time.monotonic() + self._work.deadline_s
        os.set_blocking(pipe, False)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        content = b""
        while True:
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if not ready:
                return None
            if ready.get(pipe, 0) & select.POLLIN:
                content += os.read(pipe, _READ_BYTES)
            elif pidfd in ready:  # and nothing left to read
                return content
            else:  # every end to write to is closed, and nothing left to read
                poll.unregister(pipe)

    def _expired(self, pid: int) -> Result:
        """Say where the worker hangs."""
        message = f"not done after {self._work.deadline_s:g} s{self._where()}"
        sleeping = host_state.waiting_in(pid)
        if sleeping:
            message += f", asleep in the kernel's {sleeping}"
        others = [host_state.describe(child) for child in host_state.children(pid)]
        if others:
            message += f"; its children: {', '.join(others)}"
        trace = self._ask_for_trace(pid)
        return Result(verdict=Verdict.FAILED, message=message, traceback=trace, log=self._read_logs())

    def _where(self) -> str:
        verb = self._board.read()
        return f", in {verb}" if verb else ""

    def _ask_for_trace(self, pid: int) -> str:
        os.kill(pid, worker.TRACE_SIGNAL)  # a child of ours, not waited for
        deadline = time.monotonic() + _TRACE_WAIT_S
        size = 0
        while time.monotonic() < deadline:
            time.sleep(_SETTLE_S)
            before, size = size, os.fstat(self._trace).st_size
            if size and size == before:
                break
        return self._read_trace()

    def _read_trace(self) -> str:
        return os.pread(self._trace, _READ_BYTES, 0).decode(errors="replace")

    def _stop_processes(self, *, may_run: bool) -> list[str]:
        late = [] if may_run else host_state.wait_for_children(host_state.GRACE_S)
        left = [f"left the process {host_state.describe(pid)} running" for pid in late if not host_state.is_zombie(pid)]
        groups.thaw(self._worker)
        return left + host_state.kill_children()

    def _read_logs(self) -> str:
        paths = [str(self._log), *_log_files(str(self._directory), _LOG_DEPTH)]
        parts: list[str] = []
        for path in paths[:_LOG_FILES]:
            text = _end_of(path)
            if text:
                parts.append(text if path == self._log else f"{os.path.relpath(path, self._directory)}:\n{text}")
        return "\n".join(parts)

    def _clear(self) -> list[str]:
        """Remove what is left on disk; say what should not have been there, or will not go."""
        stuck = host_state.detach_below(self._directory)
        leaks = host_state.loop_devices_below(self._directory)
        leaks += host_state.mounts_escaped(self._parent, self._directory)
        if stuck:
            return leaks + stuck
        try:
            remove_tree(self._directory)
        except StateError as exc:
            leaks.append(f"left something below its scratch directory that cannot be removed: {exc.message}")
        return leaks


def _changes_since(before: HostState) -> list[str]:
    """Compare; the kernel takes its time with the links of a network namespace that nobody uses any more."""
    deadline = time.monotonic() + _LINKS_S
    now = HostState.read()
    while now.links != before.links and time.monotonic() < deadline:
        time.sleep(_SETTLE_S)
        now = HostState.read()
    return before.changes_to(now)


def _show_network_in_sysfs() -> None:
    """Mount a sysfs that shows the links of this network namespace, as `ip netns exec` does; control groups stay."""
    kept = open_tree(AT_FDCWD, _GROUPS, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)
    try:
        mount("sysfs", "/sys", "sysfs")
        move_mount(kept, to_path=_GROUPS)
    finally:
        os.close(kept)


def _end_of(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_BYTES))
            return stream.read(_LOG_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def _log_files(directory: str, depth: int) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(directory) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in listed:
        if entry.name.endswith(".log") and entry.is_file(follow_symlinks=False):
            found.append(entry.path)
        elif depth > 0 and entry.is_dir(follow_symlinks=False):
            found += _log_files(entry.path, depth - 1)
    return found
