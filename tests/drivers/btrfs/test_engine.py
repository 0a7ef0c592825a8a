"""The real `pe` with its root on btrfs, with snapshots and with copies that share blocks."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.drivers.filesystems import subvolumes, used
from tests.waiting import eventually

MIB = 1 << 20
LOOK = (
    "find / -xdev -not -path '/proc*' -printf '%p %y %m %U %G %s %l\\n' | grep -v ' d ' | sort | sha256sum;"
    "cat /etc/motd"
)
NEST = """
import fcntl, os, struct
CREATE, SNAPSHOT, READ_ONLY = 0x50009418, 0x50009417, 2
def make(where, name, source=None, flags=0):
    fd = os.open(where, os.O_RDONLY)
    of = 0 if source is None else os.open(source, os.O_RDONLY)
    words = bytearray(struct.pack("=qQQ32x4040s", of, 0, flags, name.encode()))
    fcntl.ioctl(fd, CREATE if source is None else SNAPSHOT, words)
make("/", "mine")
make("/mine", "inner")
open("/mine/inner/file", "w").write("x")
make("/", "kept", "/mine", READ_ONLY)
print("made")
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(engine: Pe, engine_point: Path) -> Iterator[None]:
    """Compare subvolumes before and after, but for bases, which stay as long as their images."""

    def containers() -> list[str]:
        return [path for path in subvolumes(engine_point) if "/bases/" not in path]

    before = containers()
    yield
    assert containers() == before


def changes_of(engine: Pe, *flags: str) -> tuple[set[str], set[str]]:
    """Return what `pe diff` says of a container while it runs and afterwards."""
    script = (
        "echo new > /file; rm /etc/protocols; mkdir -p /a/b; ln -s b /a/link; chmod 600 /etc/passwd;"
        "rm -r /opt; mkdir /opt; echo ready; exec sleep 1000"
    )
    name = engine("run", "-d", "--net", "none", *flags, "host:base", "sh", "-c", script, check=True).stdout.strip()
    try:
        eventually(lambda: "ready" in engine("logs", name, check=True).stdout)
        running = set(engine("diff", name, check=True).stdout.splitlines())
        engine("stop", "-t", "0", name, check=True)
        return running, set(engine("diff", name, check=True).stdout.splitlines())
    finally:
        engine("rm", "-f", name, check=True)


def test_every_storage_driver_works_there(engine: Pe) -> None:
    rows = [json.loads(line) for line in engine("drivers", "--format", "json", check=True).stdout.splitlines()]
    names = {row["Name"] for row in rows if row["Kind"] == "storage" and row["Supported"] == "yes"}
    assert {"btrfs", "vfs", "overlay", "fuse_union"} <= names


@pytest.mark.parametrize("storage", ["btrfs", "vfs"])
@pytest.mark.parametrize("userns", ["host", "auto"])
def test_changes_are_those_overlayfs_notes(engine: Pe, storage: str, userns: str) -> None:
    expected, _ = changes_of(engine, "--storage", "overlay", "--userns", userns)
    running, stopped = changes_of(engine, "--storage", storage, "--userns", userns)
    assert running == stopped == expected
    assert {"A /file", "D /etc/protocols", "C /etc/passwd", "A /a/b"} <= running


@pytest.mark.parametrize("storage", ["btrfs", "vfs"])
def test_an_image_of_twenty_layers_looks_as_on_overlayfs(engine: Pe, storage: str) -> None:
    shown, expected = (
        engine("run", "--rm", "--net", "none", "--storage", name, "layered:1", "sh", "-c", LOOK, check=True).stdout
        for name in (storage, "overlay")
    )
    assert shown == expected
    assert shown.endswith("\n16\n")


@pytest.mark.parametrize("storage", ["btrfs", "vfs"])
def test_set_user_id_programs_work(engine: Pe, storage: str) -> None:
    script = "cp /usr/bin/id /id; chmod 4755 /id; chmod 755 /; exec sleep 1000"
    name = engine("run", "-d", "--net", "none", "--storage", storage, "host:base", "sh", "-c", script).stdout.strip()
    try:
        done = engine("exec", "-u", "1000:1000", name, "sh", "-c", "while ! test -u /id; do :; done; /id -u; id -u")
        assert done.stdout.split() == ["0", "1000"]
    finally:
        engine("rm", "-f", name, check=True)


@pytest.mark.parametrize("storage", ["btrfs", "vfs"])
def test_a_root_is_read_only_if_asked(engine: Pe, storage: str) -> None:
    done = engine("run", "--rm", "--net", "none", "--read-only", "--storage", storage, "host:base", "touch", "/x")
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("storage", ["btrfs", "vfs"])
def test_more_containers_take_next_to_no_space(engine: Pe, engine_point: Path, storage: str) -> None:
    engine("run", "--rm", "--net", "none", "--storage", storage, "host:base", "true", check=True)
    before = used(engine_point)
    words = ("create", "--net", "none", "--storage", storage, "host:base", "true")
    names = [engine("run", "-d", *words[1:], check=True).stdout.strip() for _ in range(5)]
    try:
        assert used(engine_point) - before < 8 * MIB
    finally:
        engine("rm", "-f", *names, check=True)


def test_data_written_in_a_container_is_there_after_a_restart(engine: Pe) -> None:
    words = ("--net", "none", "--storage", "btrfs", "host:base", "sh", "-c", "cat /kept; echo kept > /kept")
    name = engine("run", "-d", *words, check=True).stdout.strip()
    try:
        engine("wait", name)
        assert engine("start", "-a", name).stdout == "kept\n"
    finally:
        engine("rm", "-f", name, check=True)


def test_a_container_cannot_write_more_than_its_size(engine: Pe) -> None:
    script = "dd if=/dev/urandom of=/fits bs=1M count=5 && sync && dd if=/dev/urandom of=/more bs=1M count=32; sync"
    done = engine(
        "run",
        "--rm",
        "--net",
        "none",
        "--storage",
        "btrfs",
        "--storage-opt",
        "size=10m",
        "host:base",
        "sh",
        "-c",
        script,
    )
    assert "Disk quota exceeded" in done.stderr
    assert done.stderr.count("records out") == 2
    free = engine("run", "--rm", "--net", "none", "--storage", "btrfs", "host:base", "sh", "-c", script)
    assert "quota" not in free.stderr
    wrong = engine("run", "--rm", "--storage", "btrfs", "--storage-opt", "size=lots", "host:base", "true")
    assert wrong.returncode == 125
    assert "storage driver btrfs: option size=lots: not a size" in wrong.stderr


def test_subvolumes_made_in_a_container_go_with_it(engine: Pe, engine_point: Path) -> None:
    words = ("--net", "none", "--storage", "btrfs", "host:python", "python3", "-c", NEST)
    name = engine("run", "-d", *words, check=True).stdout.strip()
    try:
        engine("wait", name)
        assert engine("logs", name).stdout == "made\n"
        assert len([path for path in subvolumes(engine_point) if name in path]) == 4
        assert "A /mine/inner/file" in engine("diff", name, check=True).stdout.splitlines()
    finally:
        engine("rm", "-f", name, check=True)
    assert [path for path in subvolumes(engine_point) if name in path] == []


def test_a_base_goes_with_its_image(engine: Pe, engine_point: Path, tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    (tmp_path / "root/file").write_text("x")
    subprocess.run(["tar", "-C", tmp_path / "root", "-cf", tmp_path / "root.tar", "."], check=True)
    engine("import", str(tmp_path / "root.tar"), "small:1", check=True)
    before = subvolumes(engine_point)
    failed = engine("run", "--rm", "--net", "none", "--storage", "btrfs", "small:1", "/nowhere")
    assert failed.returncode == 127
    assert len(subvolumes(engine_point)) == len(before) + 1
    engine("rmi", "small:1", check=True)
    assert subvolumes(engine_point) == before


def test_what_a_killed_command_left_is_mended(engine: Pe, engine_point: Path) -> None:
    for delay in (0.1, 0.2, 0.3, 0.4):
        words = ("run", "-d", "--net", "none", "--storage", "btrfs", "layered:1", "sleep", "1000")
        process = engine.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
    engine("system", "check", "--repair")
    names = engine("ps", "-aq", check=True).stdout.split()
    if names:
        engine("rm", "-f", *names, check=True)
    assert os.listdir(engine.root / "containers") == []
    assert [name for name in os.listdir(engine.root / "storage/btrfs/bases") if name.startswith(".")] == []
