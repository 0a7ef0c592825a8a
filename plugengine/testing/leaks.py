"""What a hook must leave as it found it: the state of the process it runs in."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import Struct

from plugengine.cgroups import filesystem

if TYPE_CHECKING:
    import mmap

    import pluggy

# proc_pid_status(5); a driver may change some of these for a while, and must not forget to change them back
_FIELDS: Final = {
    "Umask": "the umask",
    "Uid": "the user id",
    "Gid": "the group id",
    "Groups": "the supplementary groups",
    "CapEff": "the effective capabilities",
    "SigBlk": "the blocked signals",
    "SigIgn": "the ignored signals",
    "NoNewPrivs": "no_new_privs",
}
_SIGNALS: Final = ("SigBlk", "SigIgn")
# nptl(7): 32 and 33 belong to the C library, which takes them into use with the first thread
_OF_THE_LIBRARY: Final = 1 << 31 | 1 << 32
_LINKS: Final = {"cwd": "the working directory", "root": "the root directory"}
_NAMESPACES: Final = ("mnt", "net", "uts", "ipc", "pid_for_children", "cgroup", "user", "time_for_children")
_BOARD_BYTES: Final = 256
_PATIENCE_S: Final = 3.0


class ProcessState(Struct, frozen=True):
    """State of this process, read from /proc in a fraction of a millisecond."""

    facts: dict[str, str]  # what, in words -> value
    descriptors: dict[int, str]
    environment: dict[str, str]
    handlers: tuple[Any, ...]
    threads: int

    @classmethod
    def read(cls) -> Self:
        """Read the state now."""
        facts = {what: os.readlink(f"/proc/self/{name}") for name, what in _LINKS.items()}
        for name in _NAMESPACES:
            try:
                facts[f"the {name} namespace"] = os.readlink(f"/proc/self/ns/{name}")
            except FileNotFoundError:  # a kernel without it
                continue
        with open("/proc/self/status", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                name, _, value = line.partition(":")
                if name in _SIGNALS:
                    facts[_FIELDS[name]] = f"{int(value, 16) & ~_OF_THE_LIBRARY:016x}"
                elif name in _FIELDS:
                    facts[_FIELDS[name]] = value.strip()
        handlers = tuple(signal.getsignal(number) for number in range(1, signal.SIGRTMIN))
        return cls(facts, open_descriptors(), dict(os.environ), handlers, _threads())

    def changes(self, *, descriptors: bool = True) -> list[str]:
        """Say what is different now, each a sentence without its subject."""
        try:
            after = self.read()
        except OSError as exc:
            return [f"changed the root directory, or took /proc away: {exc.filename}: {exc.strerror}"]
        found = [
            f"changed {what} from {value} to {after.facts.get(what, 'nothing')}"
            for what, value in self.facts.items()
            if after.facts.get(what) != value
        ]
        found += [
            f"changed the handler of {signal.Signals(number).name}"
            for number, (old, new) in enumerate(zip(self.handlers, after.handlers, strict=True), 1)
            if old is not new and old != new
        ]
        names = sorted(self.environment.keys() | after.environment.keys())
        changed = [name for name in names if self.environment.get(name) != after.environment.get(name)]
        if changed:
            found.append(f"changed the environment: {', '.join(changed)}")
        more = self._threads_left()
        if more > 0:
            found.append(f"left {more} thread(s) running")
        if descriptors:
            found += self._descriptor_changes(after)
        return found

    def _threads_left(self) -> int:
        """Return how many threads there are more; one that was waited for may take a moment to be gone."""
        filesystem.until(lambda: _threads() <= self.threads, timeout_s=_PATIENCE_S)
        return _threads() - self.threads

    def _descriptor_changes(self, after: ProcessState) -> list[str]:
        opened = after.descriptors.items() - self.descriptors.items()
        closed = self.descriptors.keys() - after.descriptors.keys()
        return [
            *(f"left descriptor {number} open ({target})" for number, target in sorted(opened)),
            *(f"closed descriptor {number} ({self.descriptors[number]}), not its own" for number in sorted(closed)),
        ]


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def open_descriptors() -> dict[int, str]:
    """Return the open descriptors of this process and what they are."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one listdir had
            continue
    return found


class Board:
    """Memory shared with the process that watches over a case: the verb in progress."""

    def __init__(self) -> None:
        import mmap

        self._memory: mmap.mmap = mmap.mmap(-1, _BOARD_BYTES)

    def write(self, text: str) -> None:
        """Say what is in progress; empty: nothing of the driver's."""
        self._memory[:] = os.fsencode(text)[: _BOARD_BYTES - 1].ljust(_BOARD_BYTES, b"\0")

    def read(self) -> str:
        """Return what is in progress."""
        return os.fsdecode(self._memory[:].rstrip(b"\0"))


# What ties a held process to its caller is open until it is let go, and a terminal is handed over.
_HOLDING: Final = frozenset({"pe_runtime_create", "pe_runtime_start", "pe_runtime_exec", "pe_runtime_delete"})


class HookWatch:
    """Looks at the process around every hook call of a manager, and notes which hook changed it."""

    def __init__(self, manager: pluggy.PluginManager, board: Board) -> None:
        self.violations: list[str] = []
        self._board = board
        self._first = ProcessState.read()
        self._before: list[ProcessState] = []
        self._undo = manager.add_hookcall_monitoring(self._enter, self._leave)

    def close(self) -> None:
        """Look no more."""
        self._undo()

    def _enter(self, hook_name: str, *_: object) -> None:
        try:
            self._before.append(ProcessState.read())
        except OSError:  # without /proc; said after the hook that took it away
            self._before.append(self._first)
        self._board.write(hook_name)

    def _leave(self, outcome: pluggy.Result[Any], hook_name: str, *_: object) -> None:
        self._board.write("")
        # What an exception's frames hold open is open only until it is handled; the end of the case looks again.
        looks = outcome.exception is None and hook_name not in _HOLDING
        changes = self._before.pop().changes(descriptors=looks)
        self.violations += [f"{hook_name} {change}" for change in changes]
