"""Time whole commands as a shell sees them: from the spawn to the end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from plugengine.errors import PlugengineError
from plugengine.model import HostPath

_TIMEOUT_S: Final = 60
_PREPARE_TIMEOUT_S: Final = 300
_NS: Final = 1_000_000_000
_TAIL: Final = 400  # characters of what a command said


class Shell(Struct, frozen=True, kw_only=True):
    """Runs commands with a small environment, so that no configuration of the caller plays a part."""

    work: HostPath
    disk: HostPath  # below it, on the filesystem that is measured

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of a command."""
        own = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.work), "LANG": "C.UTF-8"}
        # Where packages are that are not installed in a usual place, and which drivers the library takes too.
        own.update({name: os.environ[name] for name in ("PYTHONPATH", "PLUGENGINE_CONFIG") if name in os.environ})
        return {**own, **(extra or {})}

    def seconds(self, *commands: Sequence[str], extra: Mapping[str, str] | None = None) -> float:
        """Start all of the commands at once and return the seconds until the last one has ended.

        Raises:
            PlugengineError: One did not end well, or not in time; with its own words.
        """
        environment = self.environment(extra)
        outputs = [f"{self.work}/output.{number}" for number in range(len(commands))]
        running: dict[int, int] = {}
        try:
            begun = time.perf_counter_ns()
            for number, argv in enumerate(commands):
                running[number] = _spawn(argv, environment, outputs[number])
            for number in tuple(running):
                code = _wait(running[number])
                del running[number]
                if code != 0:
                    how = f"no end within {_TIMEOUT_S} s" if code is None else f"exit code {code}"
                    raise PlugengineError(f"{_shown(commands[number])}: {how}: {_tail(outputs[number])}")
            return (time.perf_counter_ns() - begun) / _NS
        finally:
            for pid in running.values():  # children of ours, not waited for
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def say(self, argv: Sequence[str]) -> str:
        """Run a command and return what it printed.

        Raises:
            PlugengineError: It cannot be run, or did not end well.
        """
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PREPARE_TIMEOUT_S,
                env=self.environment(),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise PlugengineError(f"{_shown(argv)}: {exc}") from exc
        if done.returncode != 0:
            raise PlugengineError(f"{_shown(argv)}: exit code {done.returncode}: {done.stderr.strip()[-_TAIL:]}")
        return done.stdout.strip()


def find_program(name: str) -> str:
    """Return the path of a program.

    Raises:
        PlugengineError: It is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise PlugengineError(f"{name} is not installed")
    return path


def own_command() -> list[str]:
    """Return how `pe` is called in the environment this process runs in."""
    beside = os.path.join(os.path.dirname(sys.executable), "pe")
    return [beside] if os.access(beside, os.X_OK) else [sys.executable, "-m", "plugengine"]


def _spawn(argv: Sequence[str], environment: Mapping[str, str], output: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    try:
        return os.posix_spawnp(argv[0], list(argv), dict(environment), file_actions=actions)
    except OSError as exc:
        raise PlugengineError(f"{_shown(argv)}: {str(exc.strerror).lower()}") from exc


def _wait(pid: int) -> int | None:
    """Return the exit code; None: it had to be killed. Not reaped before it is certain who it is."""
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        in_time = bool(poll.poll(_TIMEOUT_S * 1000))
        if not in_time:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status) if in_time else None


def _shown(argv: Sequence[str]) -> str:
    return " ".join([os.path.basename(argv[0]), *argv[1:]])


def _tail(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read().strip()[-_TAIL:] or "(no output)"
