"""What users of other union filesystems have reported of attributes, servers and paths: classes 8 to 15."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import plugengine_fuse_union as driver
import pytest

from plugengine.kernel.attributes import get_inode_flags
from plugengine.kernel.mount import MNT_DETACH, mount, umount2
from plugengine.model import HostPath
from plugengine.trees.upper import changes
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.test_copy_up import OPTIONS
from tests.drivers.fuse_union.test_server import MIB, has_ended, resident
from tests.drivers.fuse_union.world import World
from tests.waiting import PATIENCE_S, processor_time

OPAQUE = "trusted.overlay.opaque"
# version 2; user::rwx, user:7:rwx, group::r-x, mask::rwx, other::---
ACL = bytes.fromhex("02000000 01000700ffffffff 0200070007000000 04000500ffffffff 10000700ffffffff 20000000ffffffff")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def tmpfs(path: Path) -> Iterator[None]:
    """Put a filesystem of its own on a directory."""
    mount("tmpfs", str(path), "tmpfs")
    try:
        yield
    finally:
        umount2(str(path), MNT_DETACH)


@pytest.mark.parametrize("options", OPTIONS)
def test_modes_owners_and_times_are_kept_for_files_and_for_symlinks_themselves(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    """Class 8: setuid lost to a write by root, chmod lost after a write, owner and times of a symlink's target set."""
    world = make_world(options=options)
    (world.layers[0] / "program").write_bytes(b"#!")
    (world.layers[0] / "program").chmod(0o755)
    (world.layers[0] / "link").symlink_to("program")
    world.mount()
    path, link = world.root / "program", world.root / "link"
    os.chown(link, 5, 6, follow_symlinks=False)
    os.utime(link, ns=(1, 2), follow_symlinks=False)
    with open(path, "ab", buffering=0) as stream:
        stream.write(b"1")
        os.fchown(stream.fileno(), 7, 8)
        os.fchmod(stream.fileno(), 0o6755)
        stream.write(b"2")
        os.utime(stream.fileno(), ns=(3, 4))
    for _ in range(2):
        status, of_link = path.stat(), link.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o6755, 7, 8)
        assert (status.st_atime_ns, status.st_mtime_ns, status.st_size) == (3, 4, 4)
        assert (of_link.st_uid, of_link.st_gid, of_link.st_mtime_ns) == (5, 6, 2)
        world.remount()


def test_extended_attributes_of_any_length_and_on_any_kind_of_file_are_whole(world: World) -> None:
    """Class 9: lists cut at 256 bytes, attributes of devices, private names that leaked."""
    os.mkfifo(world.layers[0] / "fifo")
    os.mknod(world.layers[0] / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    names = sorted(f"user.{letter * 60}" for letter in "abcdefgh")
    world.mount()
    for name in names:
        os.setxattr(world.root / "file", name, name.encode() * 3)
    os.setxattr(world.root / "file", "user.big", bytes(range(256)) * 4)
    for name in ("fifo", "null", "link", "dir"):
        os.setxattr(world.root / name, "trusted.mark", name.encode(), follow_symlinks=False)
    for _ in range(2):
        assert sorted(os.listxattr(world.root / "file")) == sorted([*names, "user.big"])
        assert os.getxattr(world.root / "file", "user.big") == bytes(range(256)) * 4
        for name in ("fifo", "null", "link", "dir"):
            assert os.listxattr(world.root / name, follow_symlinks=False) == ["trusted.mark"]
            assert os.getxattr(world.root / name, "trusted.mark", follow_symlinks=False) == name.encode()
        world.remount()
    private = [name for name in os.listxattr(world.upper / "file") if name.startswith("trusted.overlay.")]
    assert private
    for name in private:
        with pytest.raises(OSError) as caught:
            os.getxattr(world.root / "file", name)
        assert caught.value.errno == errno.ENODATA


def test_access_control_lists_are_inherited_where_there_are_any_and_only_there(world: World) -> None:
    """Class 10: default ACLs not inherited, and ACLs where the layer has none."""
    os.setxattr(world.layers[0] / "dir", "system.posix_acl_default", ACL)
    world.mount()
    for parent, expected in ((world.root / "dir", True), (world.root, False)):
        (parent / "made").mkdir()
        (parent / "made" / "file").touch()
        (parent / "open").touch()
        for path in (parent / "made", parent / "made" / "file", parent / "open"):
            assert ("system.posix_acl_access" in os.listxattr(path)) is expected, path
        assert ("system.posix_acl_default" in os.listxattr(parent / "made")) is expected
    assert os.listxattr(world.root / "file") == []
    os.removexattr(world.root / "dir", "system.posix_acl_default")
    (world.root / "dir" / "later").touch()
    assert os.listxattr(world.root / "dir" / "later") == []


def test_who_waits_for_a_server_that_is_killed_gets_an_error_and_the_next_mount_has_everything(world: World) -> None:
    """Class 11: processes hung or the tree was lost when the server crashed."""
    world.mount()
    assert world.server is not None
    (world.root / "dir" / "new").write_text("kept")
    os.kill(world.pid, signal.SIGSTOP)  # the request below is under way when the server dies
    with subprocess.Popen(["stat", world.root / "nothing"], stderr=subprocess.PIPE, text=True) as waiting:
        os.kill(world.pid, signal.SIGKILL)
        assert waiting.wait(PATIENCE_S) == 1
        assert waiting.stderr is not None
        assert "not connected" in (said := waiting.stderr.read()) or "connection abort" in said
    assert has_ended(world.server.pidfd, PATIENCE_S)
    umount2(str(world.root), MNT_DETACH)
    world.server.reap()
    world.server = None
    world.mount()
    assert (world.root / "dir" / "new").read_text() == "kept"
    assert (world.root / "dir" / "a").read_text() == "a of the layer\n"


def test_memory_does_not_grow_with_a_spool_of_messages_that_come_and_go(world: World) -> None:
    """Class 12: gigabytes for a mail spool."""
    world.mount()
    spool = world.root / "spool"
    spool.mkdir()
    deliver(spool, 300)
    before = resident(world.pid)
    for _ in range(3):
        deliver(spool, 300)
    assert resident(world.pid) - before < MIB


def deliver(spool: Path, count: int) -> None:
    """Write messages as a mail server does, list, read and remove them."""
    for number in range(count):
        (spool / f"t{number}").write_text("message")
        os.rename(spool / f"t{number}", spool / f"m{number}")
    for name in os.listdir(spool):
        assert (spool / name).read_text() == "message"
        (spool / name).unlink()


def test_work_in_a_directory_grows_with_its_entries_not_with_their_square(make_world: MakeWorld) -> None:
    """Class 13: a directory of many entries kept a core busy."""
    few, many = 400, 3200
    spent = {}
    for count in (few, many):
        world = make_world()
        for number in range(count):
            os.mknod(world.layers[0] / f"f{number}", stat.S_IFREG | 0o644)
        world.mount()
        before = processor_time(world.pid)
        for number in range(count):
            os.mknod(world.root / f"n{number}", stat.S_IFREG | 0o644)
            os.unlink(world.root / f"f{number}")
        assert len(os.listdir(world.root)) == count
        spent[count] = processor_time(world.pid) - before
        world.unmount()
    # Three times what is in proportion, for what else runs; the square would be eight times.
    assert spent[many] < 3 * (many / few) * max(spent[few], 0.03)


def test_changes_are_told_without_reading_a_directory_of_a_layer(world: World) -> None:
    """Class 13: a difference that was found by walking all layers."""
    with tmpfs(world.layers[0]):  # which records access times
        (world.layers[0] / "dir" / "sub").mkdir(parents=True)
        (world.layers[0] / "dir" / "a").touch()
        directories = [path for path, _, _ in os.walk(world.layers[0])]
        world.mount()
        (world.root / "dir" / "a").write_text("x")
        (world.root / "dir" / "new").write_text("x")
        world.unmount()
        for path in directories:
            os.utime(path, ns=(1, 2))
        found = changes(HostPath(str(world.upper)), world.request.chain)
        assert {str(change.path) for change in found} >= {"/dir/a", "/dir/new"}
        assert {os.stat(path).st_atime_ns for path in directories} == {1}
        os.listdir(world.layers[0])
        assert os.stat(world.layers[0]).st_atime_ns > 1


@pytest.mark.parametrize("options", OPTIONS)
def test_direct_reads_and_writes_work_and_copy_up(make_world: MakeWorld, options: dict[str, str]) -> None:
    """Class 14: O_DIRECT."""
    world = make_world(options=options)
    (world.layers[0] / "file").write_bytes(b"o" * 8192)
    world.mount()
    fd = os.open(world.root / "file", os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        page[:] = b"d" * 4096
        assert os.pwritev(fd, [page], 4096) == 4096
        assert os.preadv(fd, [page], 0) == 4096
        assert page[:] == b"o" * 4096
    os.close(fd)
    assert (world.root / "file").read_bytes() == b"o" * 4096 + b"d" * 4096
    assert (world.layers[0] / "file").read_bytes() == b"o" * 8192


def test_a_fifo_without_a_writer_a_socket_and_a_lock_hold_up_nobody_else(world: World) -> None:
    """Class 14: an open FIFO stopped the server; sockets, flags and flock(2) failed."""
    os.mkfifo(world.layers[0] / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(world.layers[0] / "socket"))
    world.mount()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((world.root / "fifo").read_bytes()))
    reader.start()
    assert os.listdir(world.root / "dir")
    assert (world.root / "new").write_text("x") == 1
    (world.root / "fifo").write_bytes(b"through")
    reader.join(PATIENCE_S)
    assert got == [b"through"]
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(world.root / "socket"))
    with open(world.root / "file") as stream:
        assert get_inode_flags(stream.fileno()) == get_inode_flags_of(world.layers[0] / "file")
        fcntl.flock(stream, fcntl.LOCK_EX)
        held = subprocess.run(["flock", "-n", world.root / "file", "true"], check=False)
        assert held.returncode == 1
    assert subprocess.run(["flock", "-n", world.root / "file", "true"], check=False).returncode == 0


def get_inode_flags_of(path: Path) -> int:
    with open(path) as stream:
        return get_inode_flags(stream.fileno())


def test_paths_with_any_character_and_a_layer_behind_a_symlink_are_taken_as_they_are(tmp_path: Path) -> None:
    """Class 15: colons, commas, backslashes and spaces in paths; layers reached through symlinks."""
    (tmp_path / "real").mkdir()
    (tmp_path / "a:b").symlink_to("real")
    world = World(tmp_path / "a:b" / "c,d\\e f\ng=h", layers=2)
    try:
        (world.layers[1] / "file").write_text("content")
        world.mount()
        assert (world.root / "file").read_text() == "content"
        (world.root / "file").write_text("changed")
        world.remount()
        assert (world.root / "file").read_text() == "changed"
    finally:
        world.close()
    assert world.complaints == ""


def test_a_mount_over_its_own_upper_directory_does_not_wait_for_itself(world: World) -> None:
    """Class 15: upper directory and mount point in one, which hung."""
    code = (
        "import os, sys; from plugengine_fuse_union.server import serve;"
        "serve(dict(target=sys.argv[1], lowers=[sys.argv[2]], upper=sys.argv[1], work=sys.argv[3]),"
        " lambda: os.write(1, b'+'))"
    )
    driver.pe_storage_prepare(world.request)
    line = [sys.executable, "-c", code, str(world.upper), str(world.layers[0]), f"{world.base}/s/work"]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"+"
        (world.upper / "file").write_text("changed")
        os.rename(world.upper / "dir", world.upper / "moved")
        assert sorted(os.listdir(world.upper)) == ["file", "link", "moved"]
        assert (world.upper / "file").read_text() == "changed"
        umount2(str(world.upper))
        assert process.wait(PATIENCE_S) == 0
    assert sorted(os.listdir(world.upper)) == ["dir", "file", "moved"]


def test_a_directory_made_anew_shows_nothing_of_the_layers_whatever_they_become(world: World) -> None:
    """Class 15: a new directory merged with the layer's of that name; layers that changed between two mounts."""
    world.mount()
    subprocess.run(["rm", "-r", world.root / "dir"], check=True)
    (world.root / "dir").mkdir()
    (world.root / "mine").mkdir()
    (world.root / "file").write_text("mine")
    world.unmount()
    (world.layers[0] / "mine").mkdir()
    (world.layers[0] / "mine" / "intruder").touch()
    (world.layers[0] / "dir" / "later").touch()
    (world.layers[0] / "file").unlink()
    (world.layers[0] / "fresh").write_text("fresh")
    world.mount()
    assert os.listdir(world.root / "dir") == []
    assert (world.root / "file").read_text() == "mine"
    assert (world.root / "fresh").read_text() == "fresh"
    # As overlayfs: a directory made where the layers had none is not marked, and merges with what comes later.
    seen = os.listdir(world.root / "mine")
    world.unmount()
    world.mount_overlay()
    assert os.listdir(world.root / "mine") == seen
