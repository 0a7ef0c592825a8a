"""The server process: it ends when it should, never because of one request, and takes no more than it needs."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from plugengine_fuse_union import server
from plugengine_fuse_union.connection import Connection
from plugengine_fuse_union.protocol import Opcode
from plugengine_fuse_union.union import Union

from plugengine.errors import DriverError
from plugengine.kernel.fuse import mount_fuse, open_fuse
from plugengine.kernel.machine import kernel_version
from plugengine.kernel.mount import MNT_DETACH, umount2
from plugengine.kernel.mountinfo import read_mountinfo
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.world import World
from tests.waiting import PATIENCE_S, eventually

MIB = 1 << 20


def has_ended(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def resident(pid: int, field: str = "RssAnon") -> int:
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def test_the_mount_is_in_the_table_under_its_name_and_gone_after_the_end(world: World) -> None:
    world.mount()
    found = [entry for entry in read_mountinfo() if entry.mount_point == str(world.root)]
    assert [(entry.fstype, entry.source) for entry in found] == [("fuse.fuse_union", "fuse_union")]
    world.unmount()
    assert not [entry for entry in read_mountinfo() if entry.mount_point == str(world.root)]


def test_unmounting_ends_the_server(world: World) -> None:
    world.mount()
    assert world.server is not None
    umount2(str(world.root))
    assert has_ended(world.server.pidfd, PATIENCE_S)
    assert world.server.reap() == "exited with 0"


def test_a_termination_signal_unmounts_and_ends_the_server_even_in_use(world: World) -> None:
    world.mount()
    assert world.server is not None
    with open(world.root / "file") as stream:
        os.kill(world.pid, signal.SIGTERM)
        assert has_ended(world.server.pidfd, PATIENCE_S)
        with pytest.raises(OSError) as caught:
            os.fsync(stream.fileno())
        assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    assert not [entry for entry in read_mountinfo() if entry.mount_point == str(world.root)]


def test_a_killed_server_leaves_errors_not_hangs_and_nothing_written_is_lost(world: World) -> None:
    world.mount()
    assert world.server is not None
    (world.root / "new").write_text("kept")
    with open(world.root / "file", "r+") as stream:
        stream.write("FILE")
        stream.flush()
        os.kill(world.pid, signal.SIGKILL)
        assert has_ended(world.server.pidfd, PATIENCE_S)
        for act in (
            lambda: os.stat(world.root / "x"),
            lambda: os.listdir(world.root),
            lambda: os.fsync(stream.fileno()),
        ):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    umount2(str(world.root), MNT_DETACH)
    world.server.reap()
    world.server = None
    world.mount()
    assert (world.root / "new").read_text() == "kept"
    assert (world.root / "file").read_text().startswith("FILE")


@pytest.mark.parametrize("moment", range(5))
def test_a_server_killed_in_the_middle_of_copying_leaves_the_file_whole(make_world: MakeWorld, moment: int) -> None:
    world = make_world()
    content = os.urandom(MIB) * 64
    (world.layers[0] / "big").write_bytes(content)
    world.mount()
    assert world.server is not None
    writer = threading.Thread(target=_try_to_append, args=(world.root / "big",))
    writer.start()
    time.sleep(0.01 * moment)
    os.kill(world.pid, signal.SIGKILL)
    writer.join(PATIENCE_S)
    assert not writer.is_alive()
    assert has_ended(world.server.pidfd, PATIENCE_S)
    umount2(str(world.root), MNT_DETACH)
    world.server.reap()
    world.server = None
    world.mount()
    assert (world.root / "big").read_bytes()[: len(content)] == content
    assert os.listdir(world.base / "s" / "work" / "stage") == []


def _try_to_append(path: Path) -> None:
    try:
        with open(path, "ab", buffering=0) as stream:
            stream.write(b"!")
    except OSError:
        pass


def test_a_request_that_fails_inside_gives_an_error_and_one_line_and_harms_no_other(tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "file").write_text("x")
    (tmp_path / "m").mkdir()
    log = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    fd = open_fuse()
    mount_fuse(str(tmp_path / "m"), fd, options=("allow_other", "default_permissions"))
    pid = os.fork()
    if pid == 0:
        os.dup2(log, 2)
        _serve_with_a_fault(fd, tmp_path / "l")
    os.close(fd)
    os.close(log)
    try:
        with pytest.raises(OSError) as caught:
            os.statvfs(tmp_path / "m")
        assert caught.value.errno == errno.EIO
        assert (tmp_path / "m" / "file").read_text() == "x"
    finally:
        umount2(str(tmp_path / "m"), MNT_DETACH)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fuse_union: STATFS /: ZeroDivisionError")


def _serve_with_a_fault(fd: int, layer: Path) -> None:
    code = 1
    try:
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        connection = Connection(fd, Union([os.fsencode(layer)]))
        connection.negotiate(passthrough=True)
        server._register(connection)
        connection.register({Opcode.STATFS: lambda nodeid, end: bytes(nodeid // (end - end))})
        connection.serve(most_nodes=1000)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_no_descriptor_is_left_after_thousands_of_opens(make_world: MakeWorld, passthrough: str) -> None:
    world = make_world(options={"passthrough": passthrough})
    for number in range(50):
        (world.layers[0] / f"f{number}").write_text("x")
    world.mount()
    before = len(os.listdir(f"/proc/{world.pid}/fd"))
    for number in range(5000):
        path = world.root / f"f{number % 50}"
        fd = os.open(path, os.O_RDWR if number % 7 == 0 else os.O_RDONLY)
        os.read(fd, 1)
        os.close(fd)
        if number % 10 == 0:
            fresh = world.root / "fresh"
            fresh.touch()
            fresh.unlink()
    os.sync()
    eventually(lambda: os.statvfs(world.root) and len(os.listdir(f"/proc/{world.pid}/fd")) <= before)


def test_memory_stays_bounded_in_a_walk_over_many_files(make_world: MakeWorld) -> None:
    world = make_world()
    for number in range(20):
        (world.layers[0] / f"d{number}").mkdir()
        for count in range(1000):
            os.mknod(world.layers[0] / f"d{number}" / f"file{count}", 0o100644)
    world.mount()
    before = resident(world.pid)
    for _ in range(2):
        for directory, _, files in os.walk(world.root):
            for name in files:
                os.lstat(os.path.join(directory, name))
    after = resident(world.pid)
    bounded = kernel_version() >= (6, 18)
    assert after - before < (14 if bounded else 30) * MIB


def test_a_server_started_afresh_is_small(tmp_path: Path) -> None:
    for name in ("l", "u", "w", "m"):
        (tmp_path / name).mkdir()
    config = {"target": str(tmp_path / "m"), "lowers": [str(tmp_path / "l")]}
    config |= {"upper": str(tmp_path / "u"), "work": str(tmp_path / "w")}
    code = f"import os; from plugengine_fuse_union.server import serve; serve({config!r}, lambda: os.write(1, b'+'))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"+"
        assert resident(process.pid, "VmRSS") < 25 * MIB
        umount2(str(tmp_path / "m"))
        assert process.wait(PATIENCE_S) == 0


def test_a_mount_that_fails_says_why(make_world: MakeWorld) -> None:
    world = make_world()
    world.root.rmdir()
    with pytest.raises(DriverError, match=r"fuse_union: mount on .*: No such file or directory"):
        world.mount()
    world.log.unlink()


def test_a_hundred_mounts_and_unmounts_leave_nothing(world: World) -> None:
    before = (len(os.listdir("/proc/self/fd")), len(read_mountinfo()))
    for _ in range(100):
        world.mount()
        assert (world.root / "file").exists()
        world.unmount()
    assert (len(os.listdir("/proc/self/fd")), len(read_mountinfo())) == before


def test_processes_working_at_once_do_not_disturb_each_other(world: World) -> None:
    world.mount()
    script = """
import os, sys
for i in range(150):
    path = f"dir/{sys.argv[1]}{i}"
    open(path, "w").write("x" * i)
    assert open(path).read() == "x" * i
    os.rename(path, path + "r")
    open("file").read()
    os.listdir("dir")
    os.unlink(path + "r")
"""
    children = [subprocess.Popen([sys.executable, "-c", script, name], cwd=world.root) for name in "wxyz"]
    assert [child.wait(PATIENCE_S) for child in children] == [0] * 4
    assert sorted(os.listdir(world.root / "dir")) == ["a", "sub"]
