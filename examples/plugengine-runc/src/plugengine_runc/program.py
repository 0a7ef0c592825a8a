"""Call the program: its streams, its console socket, and what its errors mean."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from msgspec import Struct

from plugengine.bundle import RuntimeRequest, Stdio
from plugengine.errors import CommandNotFoundError, DriverError, NotExecutableError, PlugengineError
from plugengine.kernel.process import default_action

# What the log of runc and of crun says of a command, in small letters; the first that is there counts.
_MEANINGS: Final[tuple[tuple[str, type[PlugengineError]], ...]] = (
    ("executable file not found", CommandNotFoundError),
    ("executable file `", CommandNotFoundError),
    ("permission denied", NotExecutableError),
    ("exec format error", NotExecutableError),
    ("is a directory", NotExecutableError),
)


class NoContainerError(DriverError):
    """The program keeps nothing of the container."""


class NotRunningError(DriverError):
    """The first process has ended."""


class Made(Struct, frozen=True, kw_only=True):
    """A process the program has made; it has given it to us as its next subreaper."""

    pid: int
    terminal: int | None


class Program:
    """The program, for one container."""

    def __init__(self, request: RuntimeRequest) -> None:
        name = request.options["program"]
        found = shutil.which(name)
        if found is None:
            raise DriverError(f"program {name}: not found")
        self._program: str = found
        self._directory = request.directory

    def __call__(self, *words: str) -> str:
        """Run it to its end and return what it wrote. Raises as its log says."""
        return self._run(words, None)

    def spawn(self, *words: str, then: Sequence[str], stdio: Stdio | None) -> Made:
        """Have it make a process that outlives it.

        Args:
            words: The command and its options.
            then: What follows the options this adds.
            stdio: Of the new process; None: it has a terminal, of which we get the master.
        """
        pid_file = f"{self._directory}/pid-{os.urandom(8).hex()}"
        with ExitStack() as undo:
            undo.callback(_remove, pid_file)
            console = None if stdio is not None else undo.enter_context(_console(self._directory))
            socket_words = () if console is None else ("--console-socket", console[1])
            self._run((*words, "--pid-file", pid_file, *socket_words, *then), stdio)
            with open(pid_file, encoding="ascii") as stream:
                pid = int(stream.read())
            return Made(pid=pid, terminal=None if console is None else _receive(console[0]))

    def _run(self, words: Sequence[str], stdio: Stdio | None) -> str:
        log = f"{self._directory}/log-{os.urandom(8).hex()}"
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        stdin, stdout, stderr = (null, pipe, null) if stdio is None else stdio
        # "rootless" is about control groups only: runc allows /dev/net/tun to everybody, which a group below one that
        # does not cannot have, and would give up.
        known = ("--root", f"{self._directory}/state", "--log", log, "--log-format", "json", "--rootless", "true")
        try:
            done = subprocess.run(
                [self._program, *known, *words],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                check=False,
                cwd="/",
                preexec_fn=_take_signals_back,
                encoding="utf-8",
                errors="replace",
            )
            if done.returncode != 0:
                raise _error(os.path.basename(self._program), words[0], log)
        finally:
            _remove(log)
        return done.stdout or ""


def _error(program: str, command: str, log: str) -> PlugengineError:
    said = f"{program} {command}: failed, and does not say why"
    try:
        with open(log, encoding="utf-8") as stream:
            lines = [json.loads(line) for line in stream]
    except (OSError, ValueError):
        lines = []
    errors = [str(line["msg"]) for line in lines if line.get("level") in ("error", "fatal")]
    if not errors:
        return DriverError(said)
    text = errors[-1].strip()
    lowered = text.lower()
    if "does not exist" in lowered and "container" in lowered:
        return NoContainerError(f"{program} {command}: {text}")
    if "not running" in lowered or "process already finished" in lowered or "stopped" in lowered:
        return NotRunningError(f"{program} {command}: {text}")
    if command in ("create", "start", "exec"):
        about_command = [kind for words, kind in _MEANINGS if words in lowered]
        if not about_command and "no such file or directory" in lowered and "exec" in lowered:
            about_command = [CommandNotFoundError]
        if about_command:
            return about_command[0](f"{program} {command}: {text}")
    return DriverError(f"{program} {command}: {text}")


@contextmanager
def _console(directory: str) -> Iterator[tuple[socket.socket, str]]:
    """Listen for the terminal's master; by the directory's descriptor, as an address has 107 bytes at most."""
    name = f"console-{os.urandom(4).hex()}"
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = f"/proc/{os.getpid()}/fd/{opened}/{name}"
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(10)
        yield listener, path
    finally:
        listener.close()
        _remove(f"{directory}/{name}")
        os.close(opened)


def _receive(listener: socket.socket) -> int:
    """Return the descriptor that was sent; see SCM_RIGHTS in unix(7)."""
    connection, _address = listener.accept()
    with connection:
        _data, descriptors, _flags, _sender = socket.recv_fds(connection, 4096, 1)
    if not descriptors:
        raise DriverError("console socket: no terminal was sent")
    return descriptors[0]


def _take_signals_back() -> None:
    """Let the program, and so the container, have the default action of every signal, those of the C library too."""
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            default_action(number)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
