"""What the tests that kill processes of the engine share: moments, victims, a neighbour, and proof that all is well."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.conftest import Pe
from tests.system.conftest import Leftovers, eventually
from tests.waiting import PATIENCE_S, settled

COLD = {"PLUGENGINE_WARM": "0"}
BUSY = ("creating", "starting", "removing")
_SEED = 20240229
# A server that answers each line on a connection that stays open.
ECHO = """
import socket, threading
listener = socket.create_server(("0.0.0.0", 7))
def serve(connection):
    for line in connection.makefile("rb"):
        connection.sendall(line)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def popen(pe: Pe, *words: str, environ: Mapping[str, str] = {}, **kwargs: Any) -> subprocess.Popen[str]:
    """Start `pe words…` with nothing connected, unless asked for."""
    for name in ("stdin", "stdout", "stderr"):
        kwargs.setdefault(name, subprocess.DEVNULL)
    return subprocess.Popen(pe.command(*words), env={**pe.environ, **environ}, text=True, **kwargs)


def moments(count: int, until: float) -> list[float]:
    """Return points of time spread evenly over [0, until), each at a random place of its share; always the same."""
    chance = random.Random(_SEED)
    return [(number + chance.random()) * until / count for number in range(count)]


def duration(pe: Pe, *words: str, environ: Mapping[str, str] = {}) -> float:
    """Return how long an undisturbed command takes, the second of two."""
    took = 0.0
    for _ in range(2):
        began = time.monotonic()
        assert popen(pe, *words, environ=environ).wait(PATIENCE_S) == 0
        took = time.monotonic() - began
    return took


def kill_after(process: subprocess.Popen[str], delay: float) -> None:
    """SIGKILL a process after a while and reap it; one that has ended by then is fine."""
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.wait(PATIENCE_S)


def rows(pe: Pe) -> dict[str, str]:
    """Return the status of every container by id, read without the engine (which would recover them)."""
    with closing(sqlite3.connect(f"file:{pe.root}/state.db?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT id, status FROM containers"))


def state(pe: Pe, name: str) -> dict[str, Any]:
    """Return what `pe inspect` says about a container's state."""
    found: dict[str, Any] = json.loads(pe("inspect", name, check=True).stdout)[0]["State"]
    return found


def process_named(pe: Pe, name: str) -> list[int]:
    """Return the pids of the engine's own processes of a name that belong to these roots."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "comm").read_text().strip() != name:
                continue
            log = os.readlink(directory / "fd/2")
            words = (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if log.startswith((f"{pe.root}/", f"{pe.run_root}/")) or os.fsencode(f"{pe.run_root}/warm-") in words:
            found.append(int(directory.name))
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process; one that has ended has none."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def kill(pid: int) -> None:
    """SIGKILL; one that has ended by then is fine."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def remove_all(pe: Pe, *, keep: frozenset[str] = frozenset()) -> None:
    """Remove every container but `keep`, as soon as nobody works on it any more."""
    pe("ps", "-q", check=True)  # any command recovers what the dead have left
    eventually(lambda: not {status for each, status in rows(pe).items() if each not in keep}.intersection(BUSY))
    for container in set(rows(pe)) - keep:
        done = pe("rm", "-f", "-v", container)
        assert done.returncode == 0 or "no such container" in done.stderr, done.stderr


class Ground:
    """The host as it was before the first kill."""

    def __init__(self, pe: Pe) -> None:
        self._pe = pe
        self._keep = frozenset(rows(pe))
        self._leftovers = Leftovers(pe)
        self._before = self._leftovers.now()

    def left(self) -> dict[str, set[str]]:
        """Return what is there now and was not before."""
        return self._leftovers.since(self._before)

    def assert_clean(self, when: str) -> None:
        """Remove the containers there are; then all must be as before."""
        remove_all(self._pe, keep=self._keep)
        # A network nobody uses waits for its next user, or for a repair.
        if settled(self.left, lambda left: set(left) <= {"links", "rules"}):
            self._pe("system", "check", "--repair")
        assert not settled(self.left), when


class Neighbour:
    """A container with a published port and a connection that must never break."""

    def __init__(self, pe: Pe, *, port: int = 7007) -> None:
        self._pe = pe
        self._address = ("127.0.0.1", port)
        self.id = pe(
            "run", "-d", "-p", f"{port}:7", "host:python", "python3", "-c", ECHO, check=True, timeout=PATIENCE_S
        ).stdout.strip()
        found = eventually(self._connect)
        assert found is not None
        self._connection = found

    def _connect(self) -> socket.socket | None:
        try:
            connection = socket.create_connection(self._address, timeout=PATIENCE_S)
            connection.sendall(b"up\n")
            return connection if connection.recv(3) == b"up\n" else None
        except OSError:
            return None

    def assert_well(self, when: str) -> None:
        """The old connection answers, and so does a new one."""
        self._connection.sendall(b"still\n")
        assert self._connection.recv(6) == b"still\n", when
        new = self._connect()
        assert new is not None, when
        new.close()

    def close(self) -> None:
        """Remove it."""
        self._connection.close()
        self._pe("rm", "-f", self.id, check=True)


def neighbour(pe: Pe) -> Iterator[Neighbour]:
    """For a fixture: a neighbour for the time of one test."""
    made = Neighbour(pe)
    yield made
    made.close()
