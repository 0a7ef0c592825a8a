"""Run a piece of work in a process, a session and namespaces of its own, within a deadline, and see what it leaves.

Two processes are forked. The keeper is the host of the work: it has the mount namespace (for networks also a network
namespace), is the subreaper of everything started in it, and ends it. The worker is its child, in which a driver runs.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final, NoReturn

import msgspec
from msgspec import Struct

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
from plugengine.removing import remove_tree
from plugengine.testing import host_state
from plugengine.testing.host_state import HostState
from plugengine.testing.leaks import Board
from plugengine.testing.outcome import Verdict

TRACE_SIGNAL: Final = signal.SIGRTMAX - 1
_TRACE_WAIT_S: Final = 0.5
_SETTLE_S: Final = 0.02
_READ_BYTES: Final = 1 << 16
_LOG_BYTES: Final = 8000
_LOG_FILES: Final = 8
_LOG_DEPTH: Final = 4
_SYSFS_KEPT: Final = "/sys/fs/cgroup"


class Result(Struct, frozen=True, kw_only=True):
    """What the worker says of itself, and the keeper of the worker."""

    verdict: Verdict = Verdict.PASSED
    message: str = ""
    leaks: tuple[str, ...] = ()
    traceback: str = ""
    log: str = ""
    duration_s: float = 0.0
    value: Any = None


class Ground(Struct, frozen=True, kw_only=True):
    """Where work is done."""

    directory: HostPath  # an empty directory is made below it for each piece
    device: str | None = None  # block device to be mounted at `directory`, in the namespace of the work
    fstype: str = ""
    private_network: bool = False  # a network namespace of its own takes the place of the host's


class Work(Struct, frozen=True, kw_only=True):
    """One piece of work."""

    name: str  # of its directory
    deadline_s: float
    run: Callable[[HostPath, Board], Result]


class Running:
    """Work in progress; `pipe` is readable when there is something to read or it has ended."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.pipe = pipe
        self.started = time.monotonic()
        self._content = b""

    def read(self) -> bool:
        """Take what it has written; False: that was all."""
        chunk = os.read(self.pipe, _READ_BYTES)
        self._content += chunk
        return bool(chunk)

    def finish(self) -> Result:
        """Wait for its end and return the result."""
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        try:
            return msgspec.json.decode(self._content, type=Result)
        except msgspec.DecodeError:
            how = _ending(os.waitstatus_to_exitcode(status))
            return Result(verdict=Verdict.FAILED, message=f"the process that watched over the case {how}")

    def abandon(self) -> Result:
        """Kill it without waiting for what it has started."""
        os.kill(self.pid, signal.SIGKILL)
        self.finish()
        return Result(verdict=Verdict.FAILED, message="the process that watched over the case hung and was killed")

    def end(self) -> None:
        """Have it end everything it has started, then itself."""
        os.kill(self.pid, signal.SIGTERM)  # a child of ours, not waited for


def start(work: Work, ground: Ground) -> Running:
    """Begin a piece of work and return at once."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _keep(work, ground, write_end, parent)
    os.close(write_end)
    return Running(pid, read_end)


# --- the keeper --------------------------------------------------------------------------------------------


class _EndedError(Exception):
    """Somebody wants the work to end."""


def _keep(work: Work, ground: Ground, pipe: int, parent: int) -> NoReturn:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, _raise_ended)
        credentials.set_pdeathsig(signal.SIGTERM)
        if os.getppid() != parent:  # it ended before that could be noticed
            os._exit(1)
        credentials.set_child_subreaper(enabled=True)
        credentials.set_name(b"pe-kit")
        try:
            result = _Keeper(work, ground, parent).run()
        except _EndedError:
            host_state.kill_children()
            os._exit(1)
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            result = Result(
                verdict=Verdict.FAILED,
                message=f"prepare the ground of the case: {where}{exc.strerror}",
                traceback=traceback.format_exc(),
            )
        content = msgspec.json.encode(result)
        while content:
            content = content[os.write(pipe, content) :]
    except BaseException:  # noqa: BLE001 - the last frame of this process
        traceback.print_exc()
    finally:
        os._exit(0)


def _raise_ended(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _EndedError


class _Keeper:
    """Watches over one piece of work."""

    def __init__(self, work: Work, ground: Ground, parent: int) -> None:
        self._work = work
        self._parent = parent
        self._ground = ground
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
        leaks = [*result.leaks, *self._stop_processes(may_run=result.verdict is Verdict.FAILED)]
        leaks += self._changes_since(before)
        log = result.log or (self._read_logs() if result.verdict is Verdict.FAILED or leaks else "")
        stuck = host_state.detach_below(self._directory)
        leaks += host_state.loop_devices_below(self._directory)
        leaks += host_state.mounts_escaped(self._parent, self._directory)
        if not stuck:
            stuck = self._remove()
        leaks += stuck
        verdict = Verdict.FAILED if leaks else result.verdict
        return msgspec.structs.replace(result, verdict=verdict, leaks=tuple(leaks), log=log, duration_s=duration)

    def _make_namespaces(self) -> None:
        network = self._ground.private_network
        unshare(CLONE_NEWNS | (CLONE_NEWNET if network else 0))
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        if network:
            link_up("lo")
            _show_network_in_sysfs()
        if self._ground.device is not None:
            mount(self._ground.device, self._ground.directory, self._ground.fstype)

    def _watch(self, scratch: HostPath) -> Result:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            self._do(scratch, write_end)
        os.close(write_end)
        pidfd = os.pidfd_open(pid)
        with ExitStack() as undo:
            undo.callback(os.close, read_end)
            undo.callback(os.close, pidfd)
            content = self._read(read_end, pidfd)
            if content is None:
                return self._expired(pid)
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if not content:
            return Result(verdict=Verdict.FAILED, message=f"the process of the case {_ending(code)}{self._where()}")
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
            if pipe in ready:
                try:
                    chunk = os.read(pipe, _READ_BYTES)
                except BlockingIOError:
                    chunk = b""
                content += chunk
                if not chunk:
                    poll.unregister(pipe)
            elif pidfd in ready:  # and nothing left to read
                return content

    def _expired(self, pid: int) -> Result:
        """Say where the worker hangs."""
        where = self._where()
        sleeping = host_state.waiting_in(pid)
        others = [host_state.describe(child) for child in host_state.children(pid)]
        trace = self._ask_for_trace(pid)
        message = f"not done after {self._work.deadline_s:g} s{where}"
        if sleeping:
            message += f", asleep in the kernel's {sleeping}"
        if others:
            message += f"; its children: {', '.join(others)}"
        return Result(verdict=Verdict.FAILED, message=message, traceback=trace, log=self._read_logs())

    def _where(self) -> str:
        verb = self._board.read()
        return f", in {verb}" if verb else ""

    def _ask_for_trace(self, pid: int) -> str:
        os.kill(pid, TRACE_SIGNAL)  # a child of ours, not waited for
        deadline = time.monotonic() + _TRACE_WAIT_S
        while os.fstat(self._trace).st_size == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01)
        return os.pread(self._trace, _READ_BYTES, 0).decode(errors="replace")

    def _stop_processes(self, *, may_run: bool) -> list[str]:
        left = [] if may_run else [f"left the process {host_state.describe(pid)} running" for pid in self._late()]
        return left + host_state.kill_children()

    def _changes_since(self, before: HostState) -> list[str]:
        """Compare; the kernel takes its time with the links of a network namespace that nobody uses any more."""
        deadline = time.monotonic() + host_state.GRACE_S
        while (found := before.changes_to(HostState.read())) and time.monotonic() < deadline:
            time.sleep(_SETTLE_S)
        return found

    def _late(self) -> list[int]:
        return [pid for pid in host_state.wait_for_children(host_state.GRACE_S) if not host_state.is_zombie(pid)]

    def _read_logs(self) -> str:
        paths = [str(self._log), *_log_files(str(self._directory), _LOG_DEPTH)]
        parts: list[str] = []
        for path in paths[:_LOG_FILES]:
            try:
                with open(path, "rb") as stream:
                    size = os.fstat(stream.fileno()).st_size
                    stream.seek(max(0, size - _LOG_BYTES))
                    text = stream.read(_LOG_BYTES).decode(errors="replace").strip()
            except OSError:
                continue
            if text:
                name = os.path.relpath(path, self._directory)
                parts.append(text if path == self._log else f"{name}:\n{text}")
        return "\n".join(parts)

    def _remove(self) -> list[str]:
        try:
            remove_tree(self._directory)
        except StateError as exc:
            return [f"left something below its scratch directory that cannot be removed: {exc.message}"]
        return []

    # --- the worker ----------------------------------------------------------------------------------------

    def _do(self, scratch: HostPath, pipe: int) -> NoReturn:
        try:
            own = os.getpid()
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            credentials.set_pdeathsig(signal.SIGKILL)
            self._redirect()
            faulthandler.register(TRACE_SIGNAL, file=self._trace, all_threads=True)
            result = self._work.run(scratch, self._board)
            if os.getpid() == own:  # not a child that forgot to leave
                content = msgspec.json.encode(result)
                while content:
                    content = content[os.write(pipe, content) :]
        except BaseException:  # noqa: BLE001 - the last frame of this process
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(0)

    def _redirect(self) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(null)
        os.close(log)
        # What the caller has in place of them (a test runner's, say) would write somewhere else.
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with {code} before it could report"


def _show_network_in_sysfs() -> None:
    """Mount a sysfs that shows the links of this network namespace, as `ip netns exec` does; control groups stay."""
    groups = open_tree(AT_FDCWD, _SYSFS_KEPT, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)
    try:
        mount("sysfs", "/sys", "sysfs")
        move_mount(groups, to_path=_SYSFS_KEPT)
    finally:
        os.close(groups)


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
