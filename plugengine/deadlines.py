"""How long a hook may take: a driver that does not answer is an error and a note about it, not an engine that hangs."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any, Final

import msgspec
from msgspec import Struct

from plugengine.caching import write_quietly
from plugengine.model import HostPath

VARIABLE: Final = "PLUGENGINE_HOOK_TIMEOUT"  # seconds for every verb; 0: none
_PURE_S: Final = 20.0
_CHANGING_S: Final = 60.0
# Verbs that copy, remove or walk a container's files take as long as there are files.
_BULK_S: Final = 1800.0
_SECONDS: Final = {
    **dict.fromkeys(("info", "probe", "settings", "plan", "mounts", "entry", "upper", "stats", "pids"), _PURE_S),
    **{f"storage_{verb}": _BULK_S for verb in ("prepare", "remove", "changes", "usage", "gc")},
}


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
    return _SECONDS.get(f"{kind}_{verb}") or _SECONDS.get(verb, _CHANGING_S)


def table() -> tuple[tuple[float, str], ...]:
    """Return (seconds, verbs) for people to read, the shortest first."""
    pure = ", ".join(verb for verb, limit in _SECONDS.items() if limit == _PURE_S)
    bulk = ", ".join(verb.removeprefix("storage_") for verb, limit in _SECONDS.items() if limit == _BULK_S)
    return ((_PURE_S, pure), (_CHANGING_S, "all others"), (_BULK_S, f"{bulk} of storage"))


class Deadline:
    """A context in which `Expired` is raised when the time is over, and again each time it is over once more.

    It needs the process' main thread and a SIGALRM nobody else handles (setitimer(2)); without them there is no
    deadline. A call into C that neither returns nor is interrupted by signals is not ended by it.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._before: Any = None
        self._armed = False

    def __enter__(self) -> Deadline:
        if self._limit_s > 0 and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN):
            try:
                self._before = signal.signal(signal.SIGALRM, _expire)
            except ValueError:
                return self  # another thread than the main one
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self._limit_s, self._limit_s)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)


def _expire(_number: int, _frame: FrameType | None) -> None:
    raise Expired


class Note(Struct, frozen=True, kw_only=True):
    """What is remembered of a driver that did not answer."""

    kind: str
    name: str
    source: str  # "distribution version"; another version is another driver
    verb: str
    after_s: float

    @property
    def sentence(self) -> str:
        """Say it."""
        return f"{self.verb} did not return within {self.after_s:g} s"


class Degraded:
    """The drivers that did not answer since the host started: one file each, below the run root.

    A note is dropped when the same verb returns, when another version is installed, and with the run root.
    """

    def __init__(self, directory: HostPath | None) -> None:
        self._directory = directory

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
        if self._directory is None:
            return
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
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
            return ",".join(sorted(os.listdir(self._directory))) if self._directory else ""
        except OSError:
            return ""

    def _path(self, kind: str, name: str) -> str:
        if self._directory is None:
            return ""
        return os.path.join(self._directory, f"{kind}-{name.replace('/', '-')}")
