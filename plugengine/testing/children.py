"""Run parts of a case in forked processes: for an answer, with a memory of before, or killed at a chosen step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from plugengine.testing.cases import Failure

_T = TypeVar("_T")

_BROKEN: Final = 99  # exit code of a child that could not even answer
_CHUNK: Final = 1 << 16
_END: Final = b"\n"  # never in JSON as it is written here
# Audit events of the interpreter's own doings: nothing outside of the process changes at them.
_NO_STEPS: Final = ("import", "compile", "exec", "marshal.", "object.", "sys.", "code.", "gc.", "builtins.", "cpython.")
_KERNEL_DOOR: Final = "plugengine.kernel"
# Methods of these types are system calls that raise no audit event.
_SPEAKING: Final = ("socket", "NetlinkSocket")


class Child:
    """A forked process that runs one function and answers with a JSON-able value.

    Args:
        act: What it does.
        fork: Makes the process in place of os.fork(), and returns as that does.
    """

    def __init__(self, act: Callable[[], object], *, fork: Callable[[], int] = os.fork) -> None:
        self._answer, write_end = os.pipe()
        self.pid: int = fork()
        if self.pid == 0:
            os.close(self._answer)
            _answer(act, write_end)
        os.close(write_end)
        self._reaped = False

    def kill(self) -> None:
        """SIGKILL; nothing if it has been reaped."""
        if not self._reaped:
            os.kill(self.pid, signal.SIGKILL)

    def disown(self) -> None:
        """Close what a younger sibling has inherited of it: many descriptors make every look at them slow."""
        os.close(self._answer)

    @property
    def ended(self) -> bool:
        """Whether it was waited for."""
        return self._reaped

    def status(self) -> int:
        """Wait for the end; return the exit code, or minus the signal."""
        self._reaped = True
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._answer)
        return status

    def result(self) -> Any:
        """Wait for the end; return what the function returned.

        Raises:
            Failure: The function raised, or the process died.
        """
        text = _read_message(self._answer)
        status = self.status()
        if not text:
            raise Failure(f"a process of the case ended with {status} before it answered")
        kind, value = msgspec.json.decode(text)
        if kind == "error":
            raise Failure(value)
        return value


def _read_message(pipe: int) -> bytes:
    """Read up to the end of a message, not of the pipe, which other children may hold open for longer."""
    text = b""
    while not text.endswith(_END) and (part := os.read(pipe, _CHUNK)):
        text += part
    return text


def _write_message(pipe: int, value: object) -> None:
    text = msgspec.json.encode(value) + _END
    while text:
        text = text[os.write(pipe, text) :]


def _answer(act: Callable[[], object], write_end: int) -> None:
    status = _BROKEN
    try:
        try:
            message: tuple[str, object] = ("value", act())
        except Failure as exc:
            message = ("error", str(exc))
        except Exception as exc:  # noqa: BLE001 - it is told to the parent
            message = ("error", f"{type(exc).__name__}: {exc}")
        _write_message(write_end, message)
        status = 0
    finally:
        os._exit(status)


def in_child(act: Callable[[], _T]) -> _T:
    """Run `act` in a forked process and return its value, which must be JSON-able; its exceptions become Failure."""
    result: _T = Child(act).result()
    return result


def all_at_once(acts: Sequence[Callable[[], object]]) -> list[Any]:
    """Run every function in a process of its own; all begin when all are there. Return their values in order.

    Raises:
        Failure: One of them raised; all have ended.
    """
    gate_read, gate_write = os.pipe()

    children: list[Child] = []

    def behind_the_gate(act: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            os.close(gate_write)
            for elder in children:
                elder.disown()
            os.read(gate_read, 1)
            return act()

        return run

    for act in acts:
        children.append(Child(behind_the_gate(act)))
    os.close(gate_read)
    os.close(gate_write)
    results: list[Any] = []
    errors: list[Failure] = []
    for child in children:
        try:
            results.append(child.result())
        except Failure as exc:
            errors.append(exc)
    if errors:
        raise Failure(f"{len(errors)} of {len(acts)} at once: {errors[0]}")
    return results


class OtherProcess:
    """A process forked now, which knows nothing of what this one does later; it acts on what it is told then.

    A context, at whose end it is killed if it was told nothing.
    """

    def __init__(self, act: Callable[[Any], object]) -> None:
        read_end, self._tell = os.pipe()

        def wait() -> object:
            os.close(self._tell)
            text = _read_message(read_end)
            return act(msgspec.json.decode(text)) if text else None

        self._child = Child(wait)
        os.close(read_end)
        self._told = False
        self.pid: int = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._told:
            os.close(self._tell)
            self._child.kill()
            self._child.status()

    def call(self, told: object) -> Any:
        """Let it act on a JSON-able value; return its answer. Once.

        Raises:
            Failure: It raised.
        """
        self._told = True
        _write_message(self._tell, told)
        os.close(self._tell)
        return self._child.result()


# --- killed on the way -------------------------------------------------------------------------------------


class _Steps:
    """Counts the steps of this process, and kills it at one of them.

    A step is whatever may change the world outside: an audit event (PEP 578), a call through `plugengine.kernel`, a
    call of a socket's method.
    """

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self._last = last
        self._on = False

    def start(self) -> None:
        sys.addaudithook(self._audit)
        self._on = True
        sys.setprofile(self._profile)

    def stop(self) -> None:
        self._on = False
        sys.setprofile(None)

    def _audit(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self._on and not event.startswith(_NO_STEPS):
            self._step()

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            if frame.f_globals.get("__name__", "").startswith(_KERNEL_DOOR):
                self._step()
        elif event == "c_call" and type(getattr(argument, "__self__", None)).__name__ in _SPEAKING:
            self._step()

    def _step(self) -> None:
        if not self._on:
            return
        self.count += 1
        if self.count == self._last:
            self._on = False
            os.kill(os.getpid(), signal.SIGKILL)


def count_steps(act: Callable[[], object]) -> int:
    """Run `act` in a forked process; return how many steps it takes.

    Raises:
        Failure: It raised.
    """

    def run() -> int:
        steps = _Steps(None)
        steps.start()
        act()
        steps.stop()
        return steps.count

    return in_child(run)


def kill_at_step(act: Callable[[], object], number: int) -> bool:
    """Run `act` in a forked process that kills itself before its step `number`; False: it came to the end first."""

    def run() -> None:
        steps = _Steps(number)
        steps.start()
        act()
        steps.stop()

    return Child(run).status() == -signal.SIGKILL


def spread(total: int, most: int) -> list[int]:
    """Return the numbers 1 … total, or `most` of them at even distances with both ends."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(i * (total - 1) / (most - 1)) for i in range(most)})
