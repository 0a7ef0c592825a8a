"""How long a hook may take: a driver that does not answer is an error and a note about it, not an engine that hangs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import cache, partial
from types import FrameType
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from plugengine.hookmarks import QUICK_S, Call, calls_of
from plugengine.hookspecs import SPECS
from plugengine.model import HostPath
from plugengine.plugins.caching import write_quietly

VARIABLE: Final = "PLUGENGINE_HOOK_TIMEOUT"  # seconds for every verb; 0: none
T = TypeVar("T")


class Expired(BaseException):
    """Raised inside a hook that took too long; no `except Exception` of a driver swallows it."""


def seconds(kind: str, verb: str) -> float:
    """Return how long a verb may take; 0: as long as it likes."""
    text = os.environ.get(VARIABLE)
    if text:
        try:
            return max(0.0, float(text))
        except ValueError:
            pass
    call = calls().get(f"pe_{kind}_{verb}")
    return call.within_s if call is not None else QUICK_S


@cache
def calls() -> dict[str, Call]:
    """Return every hook that one driver answers."""
    return {name: call for spec in SPECS.values() for name, call in calls_of(spec).items()}


def recovery_s() -> float:
    """Return how long the recovery of one container may take, with all the hooks it calls; 0: as long as it likes."""
    undone = sum(seconds("cgroup", verb) for verb in ("create", "kill", "remove"))
    undone += seconds("runtime", "delete") + seconds("network", "detach") + seconds("network", "remove")
    return undone + 2 * seconds("storage", "remove")  # once more for what the driver leaves in its directory


def probe_s() -> float:
    """Return how long it may take to import one driver and to ask whether it works here; 0: as long as it likes."""
    return 2 * seconds("storage", "info") + 2 * seconds("storage", "probe")  # once more for the process itself


def within(limit_s: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, in any thread; a limit of 0 or less is none.

    In the main thread a timer interrupts the call where it is (setitimer(2)), again each time the limit is over once
    more. Elsewhere, and where the program handles SIGALRM itself, the call runs in a thread of its own that is waited
    for. One that overruns is left behind, to end as soon as it next executes a line of Python: `Expired` is raised
    there too. A call into C that neither returns nor is interrupted by signals goes on in both.

    Raises:
        Expired: It took too long.
    """
    if limit_s <= 0:
        return call()
    try:
        before = _take_alarm()
    except ValueError:
        return _in_thread(limit_s, call)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _take_alarm() -> Any:
    """Handle SIGALRM from now on, and return who did before. Raises: ValueError: it is not for us to take."""
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, signal.SIG_IGN):
        raise ValueError("SIGALRM is handled by the program")
    return signal.signal(signal.SIGALRM, _expire)  # ValueError in another thread than the main one


def _expire(_number: int, _frame: FrameType | None) -> None:
    raise Expired


def _in_thread(limit_s: float, call: Callable[[], T]) -> T:
    import contextvars

    worker = _Worker(partial(contextvars.copy_context().run, call))
    worker.start()
    try:
        worker.join(limit_s)
    except BaseException:
        worker.give_up()
        raise
    found: T = worker.result()
    return found


class _Worker(threading.Thread):
    """A thread for one call."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="pe-hook", daemon=True)
        self._call = call
        self._gate = threading.Lock()
        self._answer: tuple[Any, BaseException | None] | None = None

    def run(self) -> None:
        """Make the call and keep what comes of it."""
        answer: tuple[Any, BaseException | None]
        try:
            try:
                answer = (self._call(), None)
            except BaseException as exc:  # noqa: BLE001 - raised again by who waits
                answer = (None, exc)
            with self._gate:
                self._answer = answer
        except Expired:
            pass  # nobody waits any more

    def result(self) -> Any:
        """Return or raise what the call did. Raises: Expired: It has not ended, and is given up."""
        answer = self._answer or self.give_up()
        if answer is None:
            raise Expired
        value, error = answer
        if error is not None:
            raise error
        return value

    def give_up(self) -> tuple[Any, BaseException | None] | None:
        """Let the call end as soon as it can; return what came of it if it has ended by itself."""
        from plugengine.kernel.threads import raise_in_thread

        with self._gate:
            if self._answer is None:
                raise_in_thread(self.ident or 0, Expired)
            return self._answer


class Note(Struct, frozen=True, kw_only=True):
    """What is remembered of a driver that did not answer."""

    kind: str
    name: str
    source: str  # "distribution version"; another version is another driver
    verb: str
    after_s: float

    @property
    def sentence(self) -> str:
        """Return what it does, in one line."""
        return f"{self.verb} did not return within {self.after_s:g} s"


class Degraded:
    """The drivers that did not answer since the host started: one file each, below the run root.

    A note is dropped when the same verb returns, when another version is installed, and with the run root.
    """

    def __init__(self, directory: HostPath | None) -> None:
        self.directory: HostPath | None = directory

    def find(self, kind: str, name: str, source: str) -> Note | None:
        """Return the note about this version of a driver, if there is one."""
        try:
            with open(self._path(kind, name), "rb") as stream:
                note = msgspec.json.decode(stream.read(), type=Note)
        except (OSError, msgspec.MsgspecError):
            return None
        return note if note.source == source else None

    def add(self, note: Note) -> None:
        """Remember; what cannot be written is not worth an error of its own."""
        if self.directory is None:
            return
        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
        except OSError:
            return
        write_quietly(HostPath(self._path(note.kind, note.name)), msgspec.json.encode(note))

    def drop(self, kind: str, name: str) -> None:
        """Forget."""
        try:
            os.unlink(self._path(kind, name))
        except OSError:
            pass

    def fingerprint(self) -> str:
        """Return text that changes with the notes."""
        try:
            return ",".join(sorted(os.listdir(self.directory))) if self.directory else ""
        except OSError:
            return ""

    def _path(self, kind: str, name: str) -> str:
        if self.directory is None:
            return ""
        return os.path.join(self.directory, f"{kind}-{name.replace('/', '-')}")
