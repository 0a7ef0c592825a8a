"""`--dry-run` prints the steps a run takes, in their order, and takes none of them."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing

import pytest

from tests.conftest import Pe
from tests.system.conftest import Leftovers, eventually
from tests.system.kills import process_named

# What differs from one run to the next: ids, and host names made of them.
INVENTED = re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b|\b[1-9]\d{8}:65536|0:\d{6,}:65536")


def files(pe: Pe) -> set[tuple[str, int]]:
    """Return every file below both roots with its size, but for the state database, which every command opens."""
    return {
        (path, os.lstat(path).st_size)
        for root in (pe.root, pe.run_root)
        for directory, _, names in os.walk(root)
        for path in (os.path.join(directory, name) for name in names)
        if not os.path.basename(path).startswith("state.db")
    }


def networks(pe: Pe) -> list[str]:
    with closing(sqlite3.connect(f"file:{pe.root}/state.db?mode=ro", uri=True)) as connection:
        return [str(name) for (name,) in connection.execute("SELECT name FROM networks")]


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--storage", "overlay", "--net", "none"), id="overlay, none"),
        pytest.param(("--storage", "fuse_union", "--net", "bridge", "-p", "7401:7"), id="fuse_union, bridge"),
        pytest.param(("--net", "host", "--pid", "host"), id="host"),
        pytest.param(("--userns", "auto", "--read-only", "--tmpfs", "/run"), id="user namespace"),
        pytest.param(("-m", "64m", "--cpus", "0.5", "--pids-limit", "32"), id="limits"),
        pytest.param(("-v", "/data", "-v", "new-volume:/more", "--userns", "auto"), id="volumes"),
        pytest.param(("--userns", "300000:300000:65536", "--storage", "fuse_union"), id="ids that were chosen"),
        pytest.param(("-v", "/etc:/host:ro", "--hostname", "box", "--init", "-w", "/tmp"), id="mounts"),
    ],
)
def test_the_steps_shown_are_the_steps_taken(pe: Pe, flags: tuple[str, ...]) -> None:
    words = ("run", "--rm", *flags, "host:base", "true")
    pe(*words, check=True)
    pe("volume", "rm", "new-volume")
    eventually(lambda: not process_named(pe, "pe-monitor"))  # which removes an idle network last of all
    leftovers = Leftovers(pe)
    before = (leftovers.now(), files(pe), networks(pe))
    shown = pe(words[0], "--dry-run", *words[1:], check=True)
    assert (leftovers.now(), files(pe), networks(pe)) == before
    assert shown.stderr == ""
    taken = pe("--debug", *words, check=True).stderr
    pe("volume", "rm", "new-volume")
    steps = [INVENTED.sub("X", line) for line in shown.stdout.splitlines()]
    assert any(line.startswith("prepare a writable layer with storage driver") for line in steps)
    assert any(line.startswith("run true as user") for line in steps)
    assert steps == [INVENTED.sub("X", line) for line in taken.splitlines() if not line.startswith("undo: ")]


def of_the_start(text: str) -> tuple[list[str], list[str]]:
    """Return the steps of a start that were taken, and those taken back; what is made before it stays."""
    lines = [line for line in text.splitlines() if not line.startswith("  ")]
    made = next(number for number, line in enumerate(lines) if line.startswith("prepare a writable layer"))
    started = lines[made + 1 :]
    taken = [line for line in started if not line.startswith("undo: ")]
    return taken, [line.removeprefix("undo: ") for line in started if line.startswith("undo: ")]


def test_every_step_of_a_start_is_taken_back(pe: Pe) -> None:
    done = pe("--debug", "run", "--rm", "--userns", "auto", "host:base", "true", check=True)
    taken, undone = of_the_start(done.stderr)
    assert undone == taken[::-1]
    failed = pe("--debug", "run", "--rm", "host:base", "no-such-command")
    taken, undone = of_the_start(failed.stderr.split("Traceback")[0])
    assert taken[-1].startswith("run no-such-command")
    assert undone == taken[-2::-1]


def test_what_cannot_be_is_refused_before_anything_is_made(pe: Pe) -> None:
    before = files(pe)
    for words in (
        ("--sysctl", "kernel.core_pattern=x", "host:base", "true"),
        ("--device", "/dev/nonesuch", "host:base", "true"),
        ("-v", "fresh:/proc/sys", "host:base", "true"),
        ("--ulimit", "nofile=5:4", "host:base", "true"),
        ("--tmpfs", "/t:colour=red", "-v", "fresh:/data", "host:base", "true"),
    ):
        refused = pe("run", "--name", "refused", *words)
        assert refused.returncode in (2, 125)
        assert pe("ps", "-aq", check=True).stdout == ""
    assert pe("volume", "ls", "-q", check=True).stdout == ""
    assert files(pe) == before


def test_a_start_that_cannot_be_planned_says_so_in_the_container(pe: Pe) -> None:
    pe("create", "--name", "later", "--net", "container:nobody", "host:base", "true", check=True)
    failed = pe("start", "later")
    assert failed.returncode == 1
    state = json.loads(pe("inspect", "later", check=True).stdout)[0]["State"]
    assert (state["Status"], state["Error"]) == ("created", "container nobody: no such container")
    pe("rm", "later", check=True)


def test_a_dry_run_of_what_cannot_be_is_refused_as_the_run_is(pe: Pe) -> None:
    for words in (
        ("--storage", "nope", "host:base"),
        ("--storage-opt", "colour=red", "host:base"),
        ("no-such-image",),
        ("--net", "none", "-p", "1:1", "host:base"),
        ("--net", "container:nobody", "host:base"),
    ):
        dry, real = pe("run", "--dry-run", *words), pe("run", "--rm", *words)
        assert (dry.returncode, dry.stderr) == (real.returncode, real.stderr)
        assert dry.stdout == ""
