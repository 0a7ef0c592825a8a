"""Run one CNI plugin: the request by its environment and standard input, a result or an error out of it."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
from msgspec import Struct
from plugengine.errors import DriverError
from plugengine.model import short_id

_OUTPUT_BYTES = 4 << 20  # of a result; more is no result
_SHOWN = 2000  # of what a plugin wrote, from its end
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIRST_FREE_FD = 3
_ANSWERING = ("ADD", "VERSION")  # commands with a result


class PluginError(DriverError):
    """A plugin's own error, or that it answered nothing that makes sense."""

    code: int | None = None  # of the CNI error object


class Deadline:
    """A moment after which nobody waits any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the seconds left, 0 if none."""
        return max(0.0, self._end - time.monotonic())


class Call(Struct, frozen=True, kw_only=True):
    """The environment of one request; see the CNI specification, section 2."""

    command: str  # ADD DEL CHECK GC STATUS VERSION
    path: str
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: str = ""

    def environ(self) -> dict[str, str]:
        """Return the variables, ours among those we were started with."""
        own = {
            "CNI_COMMAND": self.command,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": self.args,
            "CNI_PATH": self.path,
        }
        return {"PATH": _PATH, **os.environ, **own}

    @property
    def about(self) -> str:
        """Name it, for errors."""
        return f"{self.command} for container {short_id(self.container_id)}" if self.container_id else self.command


def invoke(file: str, call: Call, config: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
    """Run a plugin and return its result; empty for commands that have none.

    Raises:
        PluginError: It reported an error, answered no JSON object, was killed, or did not end in time.
    """
    where = f"cni plugin {os.path.basename(file)}: {call.about}"
    with ExitStack() as stack:
        streams = [_memory(name) for name in ("stdin", "stdout", "stderr")]
        for fd in streams:
            stack.callback(os.close, fd)
        os.write(streams[0], msgspec.json.encode(config))
        os.lseek(streams[0], 0, os.SEEK_SET)
        try:
            status = _run(file, call.environ(), streams, deadline)
        except TimeoutError:
            raise PluginError(
                f"{where}: did not end within {deadline.seconds:g} s; killed", hint=_heard(streams[2])
            ) from None
        except OSError as exc:
            raise PluginError(f"{where}: {exc.strerror}", hint=file) from exc
        output = os.pread(streams[1], _OUTPUT_BYTES, 0)
        if status == 0 and call.command not in _ANSWERING:
            return {}
        answer = _decode(output)
        if status == 0 and answer is not None:
            return answer
        raise _error(where, status, answer, output, _heard(streams[2]))


def _error(where: str, status: int, answer: dict[str, Any] | None, output: bytes, heard: str | None) -> PluginError:
    if status == 0:
        return PluginError(f"{where}: answered no JSON object: {_shown(output) or 'nothing'}", hint=heard)
    if answer is not None and "code" in answer:
        details = f": {answer['details']}" if answer.get("details") else ""
        error = PluginError(f"{where}: {answer.get('msg') or 'error'}{details} (code {answer['code']})", hint=heard)
        error.code = answer["code"] if isinstance(answer["code"], int) else None
        return error
    if status < 0:
        return PluginError(f"{where}: was killed by {signal.Signals(-status).name}", hint=heard)
    return PluginError(
        f"{where}: exit code {status} without an error object: {_shown(output) or 'nothing'}", hint=heard
    )


def _run(file: str, environ: Mapping[str, str], streams: list[int], deadline: Deadline) -> int:
    """Return the exit status, negative for a signal; files in memory, for they never fill up and never block.

    Raises:
        TimeoutError: The deadline came first; the plugin and its children are killed.
    """
    pid = os.posix_spawn(
        file,
        [file],
        environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(streams)],
        setpgroup=0,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGCHLD),
    )
    ended = False
    try:
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            ended = bool(poll.poll(deadline.left_s() * 1000))
        finally:
            os.close(pidfd)
    finally:
        if not ended:
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not ended:
        raise TimeoutError
    return os.waitstatus_to_exitcode(status)


def _memory(name: str) -> int:
    """Return a file in memory; never one of the first three descriptors, which the plugin's are copied to."""
    fd = os.memfd_create(f"cni-{name}", os.MFD_CLOEXEC)
    if fd >= _FIRST_FREE_FD:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD)
    finally:
        os.close(fd)


def _decode(output: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(output, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None


def _heard(fd: int) -> str | None:
    """Return what the plugin wrote to its standard error, for a hint."""
    try:
        text = _shown(os.pread(fd, _OUTPUT_BYTES, 0)[-_SHOWN:])
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return None
    return f"it wrote: {text}" if text else None


def _shown(output: bytes) -> str:
    return output[:_SHOWN].decode(errors="replace").strip()
