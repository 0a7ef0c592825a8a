"""The server's memory has a bound, whatever is walked: it does not grow with the tree."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from plugengine.kernel.machine import kernel_version
from tests.conftest import need
from tests.drivers.fuse_union.test_mount_program import Place, place  # noqa: F401 - a fixture

MIB = 1 << 20
BOUND, GROWTH = 25 * MIB, 10 * MIB
FILES, EMPTY, PER_DIRECTORY = 16_000, 8_000, 100


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes, shared libraries and all."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        line = next(line for line in rollup if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024


def fill(layers: list[Path]) -> None:
    """Make files, and directories with nothing in them, which the kernel must be asked to let go as well."""
    for number in range((FILES + EMPTY) // PER_DIRECTORY):
        directory = layers[number % len(layers)] / f"d{number % 10}" / f"e{number}"
        directory.mkdir(parents=True)
        for count in range(PER_DIRECTORY):
            if number < FILES // PER_DIRECTORY:
                os.mknod(directory / f"some-file-{count}.py", 0o100644)
            else:
                (directory / f"some-directory-{count}").mkdir()


def walk(root: Path, pid: int) -> int:
    """Walk twice, all attributes asked for, and return the most memory that the server had."""
    most = 0
    for words in (["ls", "-lR"], ["find", ".", "-ls"]):
        with subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL) as walker:
            while walker.poll() is None:
                most = max(most, memory(pid))
                time.sleep(0.1)
        assert walker.returncode == 0
    return most


@pytest.mark.slow
def test_a_server_stays_below_25_mib_in_a_walk_of_many_files_and_directories(place: Place) -> None:  # noqa: F811
    need(None if kernel_version() >= (6, 18) else "needs a kernel that can be asked to forget (FUSE_NOTIFY_PRUNE)")
    layers = [place.base / f"layer{number}" for number in range(3)]
    fill(layers)
    done = place.mount(options=place.options.replace(str(place.layer), ":".join(map(str, layers))))
    assert done.returncode == 0, done.stderr
    (pid,) = place.servers()
    before = memory(pid)
    most = walk(place.target, pid)
    after = memory(pid)
    figures = f"{before / MIB:.1f} MiB before, {most / MIB:.1f} at most, {after / MIB:.1f} after"
    assert most < BOUND, figures
    assert after - before < GROWTH, figures
