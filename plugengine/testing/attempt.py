"""Try one case on a driver, in the process it is called in, and say what came of it."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from msgspec import Struct

from plugengine.errors import PlugengineError
from plugengine.model import HostPath
from plugengine.testing import host_state
from plugengine.testing.cases import Case, Failure, Unsuitable
from plugengine.testing.isolation import Result
from plugengine.testing.leaks import Board, HookWatch, ProcessState
from plugengine.testing.loading import Tested, host_below
from plugengine.testing.outcome import Verdict


class Attempt(Struct, frozen=True):
    """One case to be tried on one driver."""

    case: Case
    tested: Tested
    options: Mapping[str, str]

    def run(self, scratch: HostPath, board: Board) -> Result:
        """Try it; never raises."""
        gc.collect()
        before = ProcessState.read()
        watch = HookWatch(self.tested.manager, board)
        trial = _Trial()
        leaks = trial.perform(self, scratch)
        watch.close()
        gc.collect()  # descriptors held by a cycle are not left open, only late
        leaks += watch.violations
        known = " ".join(watch.violations)
        leaks += [text for text in before.changes() if text not in known]
        leaks += [f"left the child process {_describe(pid)}" for pid in host_state.children(os.getpid())]
        return Result(
            verdict=Verdict.FAILED if leaks else trial.verdict,
            message=trial.message,
            traceback=trial.traceback,
            leaks=tuple(dict.fromkeys(leaks)),
        )


def _describe(pid: int) -> str:
    shown = host_state.describe(pid)
    return f"{shown}, which nobody waited for" if host_state.is_zombie(pid) else f"{shown} running"


class _Trial:
    """The verdict so far."""

    def __init__(self) -> None:
        self.verdict = Verdict.PASSED
        self.message = ""
        self.traceback = ""

    def perform(self, attempt: Attempt, scratch: HostPath) -> list[str]:
        """Run the case with a subject of its kind, undo, and return what the subject finds left."""
        try:
            subject = make_subject(attempt.tested, scratch, attempt.options)
            self._use(attempt.case, subject)
            return list(subject.leaks())
        except BaseException as exc:  # noqa: BLE001 - whatever it is, it is a verdict
            self._take(exc)
            return []

    def _use(self, case: Case, subject: Any) -> None:
        manager: AbstractContextManager[Any] = subject
        try:
            with manager as entered:
                try:
                    case.function(entered)
                except BaseException as exc:
                    self._take(exc)
                    raise
        except BaseException as exc:  # noqa: BLE001
            self._take(exc, prefix="undo: ")

    def _take(self, exc: BaseException, *, prefix: str = "") -> None:
        """Note how it failed, unless that is known; a failure to undo follows a failure of the case."""
        text = _words(exc)
        if self.message.endswith(text):
            return
        if isinstance(exc, Unsuitable) and self.verdict is Verdict.PASSED:
            self.verdict = Verdict.SKIPPED
        elif not isinstance(exc, Unsuitable):
            self.verdict = Verdict.FAILED
        self.message = f"{self.message}; then {prefix}{text}" if self.message else f"{prefix}{text}"
        self.traceback += "".join(traceback.format_exception(exc))


def _words(exc: BaseException) -> str:
    if isinstance(exc, Failure | Unsuitable):
        return str(exc) or type(exc).__name__
    if isinstance(exc, PlugengineError):
        return f"{type(exc).__name__}: {exc.message}"
    return f"{type(exc).__name__}: {exc}"


def make_subject(tested: Tested, scratch: HostPath, options: Mapping[str, str]) -> Any:
    """Return the driver with what the cases of its kind need around it."""
    module = import_module(f"plugengine.testing.{tested.kind.value}.subject")
    return module.Subject(tested.driver, host_below(scratch), scratch, options)


def probe(tested: Tested, scratch: HostPath, board: Board) -> Result:
    """Ask the driver whether it works where the cases will run; the value is the list of reasons why not."""
    watch = HookWatch(tested.manager, board)
    try:
        reasons = tested.driver.probe(host_below(scratch))
    except Exception as exc:  # noqa: BLE001 - third-party code
        return Result(verdict=Verdict.FAILED, message=_words(exc), traceback=traceback.format_exc())
    finally:
        watch.close()
    return Result(value=list(reasons), leaks=tuple(watch.violations))
