"""Who takes part in `pe bench start`: command lines with docker's grammar, and the library in a living process."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from plugengine.bench.commands import Shell
from plugengine.bench.results import Column
from plugengine.engine import Engine
from plugengine.errors import PlugengineError
from plugengine.spec import ContainerSpec, ExecSpec
from plugengine.streams.attach_client import Streams

AT_ONCE: Final = 8
MARK: Final = "pe-bench"
TRUE: Final = ("true",)
# Waits for a signal and ends at once when it comes, which a first process does not do by itself; see kill(2).
WAITER: Final = ("sh", "-c", "trap 'exit 0' TERM; : > /pe-bench-waits; sleep 1000 & wait")
WAITS: Final = ("test", "-e", "/pe-bench-waits")  # before that the signal would be ignored
UNHEARD: Final = Streams(proxy_signals=False)  # an interrupt is for the run, not for what is in a container
_READY_TRIES: Final = 100
_READY_PAUSE_S: Final = 0.05
COLD: Final = {"PLUGENGINE_WARM": "0"}
_numbers = itertools.count(1)

Take = Callable[[], float]


class Contender(Protocol):
    """One column."""

    column: Column

    def takes(self) -> Mapping[str, Take]:
        """Return what it can do, by workload: done once for each call, which returns seconds."""

    def check(self) -> None:
        """Prove that it really runs a program in a container. Raises: PlugengineError."""


class CommandLine:
    """An engine called as a command: pe, docker, podman.

    Args:
        column: Its column.
        shell: Runs its commands.
        command: The words before the subcommand.
        flags: Of `run` and `create`.
        image: What containers are made of.
        warms_up: It leaves a prepared process behind, which PLUGENGINE_WARM=0 does without.
    """

    def __init__(
        self,
        column: Column,
        shell: Shell,
        command: Sequence[str],
        *,
        flags: Sequence[str],
        image: str,
        warms_up: bool = False,
    ) -> None:
        self.column = column
        self._shell = shell
        self._command = command
        self._flags = flags
        self._image = image
        self._warms_up = warms_up
        self._runner = ""

    def takes(self) -> Mapping[str, Take]:
        """Return everything; a cold start only where there are warm ones."""
        cold = {"run-cold": lambda: self._shell.seconds(self._run(), extra=COLD)} if self._warms_up else {}
        return {
            "run": lambda: self._shell.seconds(self._run()),
            **cold,
            "create": self._create,
            "start": self._start,
            "exec": self._exec,
            "stop": self._stop,
            "parallel": lambda: self._shell.seconds(*[self._run() for _ in range(AT_ONCE)]) / AT_ONCE,
        }

    def check(self) -> None:
        """Let a container say a word."""
        said = self._say("run", "--rm", *self._flags, self._image, "echo", MARK)
        if said != MARK:
            raise PlugengineError(f"the container said {said!r}, not {MARK!r}")

    def _words(self, *words: str) -> list[str]:
        return [*self._command, *words]

    def _say(self, *words: str) -> str:
        return self._shell.say(self._words(*words))

    def _run(self) -> list[str]:
        return self._words("run", "--rm", *self._flags, self._image, *TRUE)

    def _create(self) -> float:
        name = _new_name()
        try:
            return self._shell.seconds(
                self._words("create", "--name", name, *self._flags, self._image, *WAITER),
            )
        finally:
            self._remove(name)

    def _start(self) -> float:
        name = _new_name()
        self._say("create", "--name", name, *self._flags, self._image, *WAITER)
        try:
            return self._shell.seconds(self._words("start", name))
        finally:
            self._remove(name)

    def _exec(self) -> float:
        if not self._runner:
            name = _new_name()
            self._say("run", "-d", "--name", name, *self._flags, self._image, *WAITER)
            self._runner = name
        return self._shell.seconds(self._words("exec", self._runner, *TRUE))

    def _stop(self) -> float:
        name = _new_name()
        self._say("run", "-d", "--name", name, *self._flags, self._image, *WAITER)
        try:
            _until_ready(lambda: self._say("exec", name, *WAITS))
            return self._shell.seconds(self._words("stop", name))
        finally:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._say("rm", "-f", name)


class Library:
    """`Engine` in a process that is there: what a container costs without a command line.

    Args:
        column: Its column.
        engine: Makes the containers.
        spec: What every container is like.
    """

    def __init__(self, column: Column, engine: Engine, spec: ContainerSpec) -> None:
        self.column = column
        self._engine = engine
        self._spec = spec
        self._runner = ""

    def takes(self) -> Mapping[str, Take]:
        """Return what one process does; starts at once need several."""
        return {
            "run": self._run,
            "create": self._create,
            "start": self._start,
            "exec": self._exec,
            "stop": self._stop,
        }

    def check(self) -> None:
        """Let a container say a word."""
        read_end, write_end = os.pipe()
        try:
            self._engine.containers.run(
                self._like(("echo", MARK), auto_remove=True), streams=Streams(stdout=write_end, proxy_signals=False)
            )
            os.close(write_end)
            write_end = -1
            said = os.read(read_end, len(MARK) + 1).decode(errors="replace").strip()
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
        if said != MARK:
            raise PlugengineError(f"the container said {said!r}, not {MARK!r}")

    def _like(self, command: tuple[str, ...], *, auto_remove: bool = False) -> ContainerSpec:
        from msgspec.structs import replace

        return replace(self._spec, command=command, auto_remove=auto_remove)

    def _run(self) -> float:
        begun = time.perf_counter()
        outcome = self._engine.containers.run(self._like(TRUE, auto_remove=True), streams=UNHEARD)
        seconds = time.perf_counter() - begun
        if outcome.exit_code != 0:
            raise PlugengineError(f"run: exit code {outcome.exit_code}")
        return seconds

    def _create(self) -> float:
        begun = time.perf_counter()
        name = self._engine.containers.create(self._like(WAITER)).id
        seconds = time.perf_counter() - begun
        self._engine.containers.remove(name)
        return seconds

    def _start(self) -> float:
        name = self._engine.containers.create(self._like(WAITER)).id
        try:
            begun = time.perf_counter()
            self._engine.containers.start(name)
            return time.perf_counter() - begun
        finally:
            self._engine.containers.remove(name, force=True)

    def _exec(self) -> float:
        if not self._runner:
            self._runner = self._engine.containers.create(self._like(WAITER)).id
            self._engine.containers.start(self._runner)
        begun = time.perf_counter()
        self._exec_in(self._runner, TRUE)
        return time.perf_counter() - begun

    def _exec_in(self, name: str, command: tuple[str, ...]) -> None:
        outcome = self._engine.containers.exec(name, ExecSpec(command=command), streams=UNHEARD)
        if outcome.exit_code != 0:
            raise PlugengineError(f"exec {' '.join(command)}: exit code {outcome.exit_code}")

    def _stop(self) -> float:
        name = self._engine.containers.create(self._like(WAITER)).id
        try:
            self._engine.containers.start(name)
            _until_ready(lambda: self._exec_in(name, WAITS))
            begun = time.perf_counter()
            self._engine.containers.stop(name)
            return time.perf_counter() - begun
        finally:
            self._engine.containers.remove(name, force=True)


class Floor:
    """What no engine can be faster than: a process that does nothing."""

    def __init__(self, column: Column, shell: Shell, argv: Sequence[str]) -> None:
        self.column = column
        self._shell = shell
        self._argv = argv

    def takes(self) -> Mapping[str, Take]:
        """Return how long it takes, alone and at once with others."""
        return {
            "run": lambda: self._shell.seconds(self._argv),
            "parallel": lambda: self._shell.seconds(*[self._argv] * AT_ONCE) / AT_ONCE,
        }

    def check(self) -> None:
        """Run it."""
        self._shell.seconds(self._argv)


def _until_ready(ask: Callable[[], object]) -> None:
    """Ask until there is no error; raise the last one."""
    for _ in range(_READY_TRIES):
        try:
            ask()
        except PlugengineError:
            time.sleep(_READY_PAUSE_S)
        else:
            return
    ask()


def _new_name() -> str:
    return f"pe-bench-{os.getpid()}-{next(_numbers)}"
