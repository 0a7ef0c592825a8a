"""What every test of the whole engine shares: proof that nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Pe, need
from tests.waiting import eventually as eventually
from tests.waiting import settled

_CGROUPS = Path("/sys/fs/cgroup")
# A mount point or parent id changes when something else is mounted; what is mounted where must not.
_MOUNT_FIELDS = slice(2, None)


class Leftovers:
    """Everything outside of images and volumes that a container could leave behind, as sets of lines."""

    def __init__(self, pe: Pe) -> None:
        self._pe = pe

    def now(self) -> dict[str, set[str]]:
        """Take stock."""
        return {
            "mounts": {
                " ".join(line.split()[_MOUNT_FIELDS]) for line in Path("/proc/self/mountinfo").read_text().splitlines()
            },
            "links": _links(),
            "rules": _lines("nft", "list", "ruleset"),
            "cgroups": {
                str(path)
                for hierarchy in _CGROUPS.glob("*")
                for path in (hierarchy / "plugengine").glob("*")
                if path.is_dir() and self._is_ours(path)
            },
            "processes": self._processes(),
            "rows": self._rows(),
            "directories": {path.name for path in (self._pe.root / "containers").glob("*")},
            "run": {str(path) for path in (self._pe.run_root / "c").glob("*")},
        }

    def since(self, before: Mapping[str, set[str]]) -> dict[str, set[str]]:
        """Return what is there now and was not before."""
        return {kind: extra for kind, lines in self.now().items() if (extra := lines - before[kind])}

    def remove(self, left: Mapping[str, set[str]]) -> None:
        """Take away what a test has left, so that only this one fails: the next one finds the engine as it was."""
        for line in left.get("processes", ()):
            try:
                os.kill(int(line.split()[0]), signal.SIGKILL)
            except ProcessLookupError:
                pass
        if "rows" in left:
            rows = [line.split() for line in left["rows"]]
            self._pe("rm", "-f", "-v", *(name for kind, name, *_ in rows if kind == "container"))
            self._pe("volume", "rm", "-f", *(name for kind, name, *_ in rows if kind == "volume"))
        self._pe("system", "check", "--repair")
        for line in left.get("mounts", ()):
            subprocess.run(["umount", "--lazy", line.split()[2]], capture_output=True, check=False)
        for link in left.get("links", ()):
            subprocess.run(["ip", "link", "delete", link.partition("@")[0]], capture_output=True, check=False)

    def _is_ours(self, path: Path) -> bool:
        """Other engines on this machine, in other test runs, have groups below the same parent."""
        try:
            return os.getxattr(path, "trusted.plugengine") == f"owner:{self._pe.root}".encode()
        except OSError:
            return False

    def _processes(self) -> set[str]:
        found = set()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                name = (directory / "comm").read_text().strip()
                words = (directory / "cmdline").read_bytes()
                state = (directory / "stat").read_text().rsplit(")", 1)[1].split()[0]
                log = os.readlink(directory / "fd/2") if name.startswith("pe-") else ""
            except OSError:
                continue
            ours = os.fsencode(self._pe.run_root) in words or log.startswith(str(self._pe.root))
            if ours and name != "pe-warm" and state != "Z":
                found.add(f"{directory.name} {name}")
        return found

    def _rows(self) -> set[str]:
        database = self._pe.root / "state.db"
        if not database.exists():
            return set()
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            queries = (
                "SELECT 'container', name, status FROM containers",
                "SELECT 'lease', network, address FROM leases",
                "SELECT 'ids', start, container_id FROM id_ranges",
                "SELECT 'volume', name, anonymous FROM volumes",
            )
            return {" ".join(map(str, row)) for query in queries for row in connection.execute(query)}


def _lines(*command: str) -> set[str]:
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def _links() -> set[str]:
    # Without the flags and states of interfaces that stay.
    return {line.split(":", 2)[1].strip() for line in _lines("ip", "-o", "link")}


Start = Callable[..., str]


@pytest.fixture
def start(pe: Pe) -> Iterator[Start]:
    """`start("--flag", "image", "command")` runs a detached container and returns its id; it goes with the test."""
    started: list[str] = []

    def run(*args: str) -> str:
        done = pe("run", "-d", *args, check=True)
        started.append(done.stdout.strip())
        return started[-1]

    yield run
    for name in started:
        done = pe("rm", "-f", "-v", name)
        assert done.returncode == 0 or "no such container" in done.stderr, done.stderr


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare mounts, links, rules, control groups, processes and rows before and after each test with `pe`."""
    if "pe_env" not in request.fixturenames:
        yield
        return
    alone = {name for _, name in socket.if_nameindex() if not name.startswith("pe")} == {"lo"}
    need(None if alone else "needs a network namespace of its own: run it under .ci/isolated")
    leftovers = Leftovers(request.getfixturevalue("pe_env"))
    before = leftovers.now()
    yield
    left = settled(lambda: leftovers.since(before))
    if left:
        leftovers.remove(left)
    assert not left
