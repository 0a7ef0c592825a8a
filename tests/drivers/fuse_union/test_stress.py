"""Many processes at once, full and failing disks, a thousand mounts: nothing is lost and nothing is left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugengine.kernel.loop import loop_attach
from plugengine.kernel.mount import MNT_DETACH, MS_REMOUNT, mount, umount2
from plugengine.kernel.mountinfo import read_mountinfo
from tests.conftest import need_tool
from tests.drivers.fuse_union.conftest import MakeWorld
from tests.drivers.fuse_union.test_copy_up import OPTIONS
from tests.drivers.fuse_union.test_server import MIB, resident
from tests.drivers.fuse_union.world import World
from tests.waiting import PATIENCE_S

STORM = """
import os, random, sys
dice, names = random.Random(int(sys.argv[1])), [f"n{n}" for n in range(40)]
acts = (
    lambda a, b: os.close(os.open(a, os.O_CREAT | os.O_WRONLY)),
    lambda a, b: open(a, "x").write(a),
    lambda a, b: os.rename(a, b),
    lambda a, b: os.link(a, b),
    lambda a, b: os.unlink(a),
    lambda a, b: os.mkdir(a),
    lambda a, b: os.rmdir(a),
    lambda a, b: os.symlink(a, b),
    lambda a, b: open(a + "/x", "w").close(),
    lambda a, b: os.rename(a + "/x", b),
    lambda a, b: os.listdir("."),
)
for _ in range(int(sys.argv[2])):
    try:
        dice.choice(acts)(dice.choice(names), dice.choice(names))
    except FileExistsError: pass
    except FileNotFoundError: pass
    except (NotADirectoryError, IsADirectoryError, PermissionError): pass
    except OSError as exc:
        # ENOTEMPTY, ELOOP, EINVAL (into itself), ENXIO do not tell of trouble; anything else does.
        if exc.errno not in (39, 40, 22): raise
"""
SIZE = 24 * MIB
# Stressors of stress-ng that run beside each other.
STRESSORS = {
    "directories": ("chdir", "dentry", "dir", "dirdeep", "dirmany", "getdent"),
    "names": ("filename", "link", "mknod", "open", "rename", "symlink", "touch"),
    "attributes": ("access", "chattr", "chmod", "chown", "fstat", "inode-flags", "utime", "xattr"),
    "locks": ("fcntl", "flock", "lease", "locka", "lockf", "lockofd"),
    "content": ("fallocate", "fpunch", "hdd", "iomix", "mmap", "readahead"),
    "calls": ("aio", "dnotify", "file-ioctl", "fsize", "handle", "inotify", "sendfile", "splice", "sync-file"),
}
OPENING = {"locks", "content", "calls"}  # for them it matters who serves an open file
STRESS_SIZES = ("fallocate-bytes", "hdd-bytes", "iomix-bytes", "mmap-bytes", "readahead-bytes")


@pytest.mark.slow
def test_nothing_is_left_of_a_directory_in_which_many_processes_made_moved_and_removed(world: World) -> None:
    for number in range(0, 40, 2):
        (world.layers[0] / "dir" / f"n{number}").write_text("layer")
    world.mount()
    storm(world.root / "dir", range(8))
    before = listing(world.root)
    world.remount()
    assert listing(world.root) == before
    storm(world.root / "dir", range(8, 16))
    subprocess.run(["rm", "-rf", world.root / "dir"], check=True)
    assert sorted(os.listdir(world.root)) == ["file", "link"]
    (world.root / "dir").mkdir()
    world.remount()
    assert os.listdir(world.root / "dir") == []
    assert set(os.listdir(world.base / "s" / "work" / "stage")) <= {"whiteout"}


def storm(directory: Path, seeds: range) -> None:
    """Let a process for every seed make, move and remove the same names."""
    line = [sys.executable, "-c", STORM]
    children = [subprocess.Popen([*line, str(seed), "400"], cwd=directory) for seed in seeds]
    assert [child.wait(PATIENCE_S) for child in children] == [0] * len(children)


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, links and size of everything."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            status = os.lstat(os.path.join(directory, name))
            links = status.st_nlink if name in files else 1
            size = status.st_size if name in files else 0
            found[os.path.join(directory, name)] = (status.st_mode, links, size)
    return found


@contextmanager
def small_disk(world: World, image: Path) -> Iterator[None]:
    """Put the upper directory on an ext4 of its own, on a loop device."""
    backing = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(backing, SIZE)
    subprocess.run([need_tool("mkfs.ext4"), "-q", "-F", image], check=True, capture_output=True)
    try:
        with mounted_disk(world, backing):
            yield
    finally:
        os.close(backing)


@contextmanager
def mounted_disk(world: World, backing: int) -> Iterator[None]:
    device, fd = loop_attach(backing)
    try:
        mount(device, str(world.base / "s"), "ext4")
    finally:
        os.close(fd)
    try:
        yield
    finally:
        world.unmount()
        umount2(str(world.base / "s"))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_full_disk_loses_nothing_written_before_and_works_again_with_room(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(options=options)
    content = os.urandom(3 * MIB)
    for name in ("big", "changed"):
        (world.layers[0] / name).write_bytes(content)
    image = world.base / "image"
    with small_disk(world, image):
        world.mount()
        (world.root / "early").write_bytes(content)
        with open(world.root / "changed", "r+b") as stream:
            stream.write(b"changed")
            os.fsync(stream.fileno())
        (world.root / "dir").mkdir()
        written = fill(world.root / "filler")
        assert written > SIZE // 4
        for act in (
            lambda: (world.root / "big").chmod(0o600),
            lambda: (world.root / "dir" / "more").write_bytes(content),
            lambda: os.truncate(world.root / "big", 2 * MIB),
        ):
            with pytest.raises(OSError, match="No space left"):
                act()
        expected = {"early": content, "big": content, "changed": b"changed" + content[7:]}
        for _ in range(2):
            assert {name: (world.root / name).read_bytes() for name in expected} == expected
            world.remount()
        (world.root / "filler").unlink()
        (world.root / "big").chmod(0o600)
        (world.root / "dir" / "more").write_bytes(content)
        assert (world.root / "big").read_bytes() == content
        assert set(os.listdir(world.base / "s" / "work" / "stage")) <= {"whiteout"}
    subprocess.run([need_tool("e2fsck"), "-f", "-n", image], check=True, capture_output=True)


def fill(path: Path) -> int:
    """Write until there is no room; return how much was taken."""
    block, total = os.urandom(MIB), 0
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        while total < 2 * SIZE:
            total += os.write(fd, block)
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
    finally:
        os.close(fd)
    return total


@pytest.mark.parametrize("options", OPTIONS)
def test_errors_of_the_disk_are_told_and_lose_nothing_that_was_safe(
    make_world: MakeWorld, options: dict[str, str]
) -> None:
    world = make_world(options=options)
    (world.layers[0] / "file").write_text("layer")
    place = world.base / "disk"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs", 0, f"size={SIZE // 3}")  # the device promises more than it can hold
    try:
        with small_disk(world, place / "image"):
            world.mount()
            content = os.urandom(MIB)
            for name in ("safe", "file"):
                with open(world.root / name, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            parent = os.open(world.root, os.O_RDONLY)
            os.fsync(parent)
            os.close(parent)
            with pytest.raises(OSError) as caught:
                overwhelm(world.root / "lost")
            assert caught.value.errno in {errno.EIO, errno.ENOSPC, errno.EROFS}
            assert os.listdir(world.root)
            assert (world.root / "safe").read_bytes() == content
            assert "FSYNC /lost: OSError(5" in world.complaints or caught.value.errno != errno.EIO
            world.log.write_text("")
        mount(None, str(place), None, MS_REMOUNT, f"size={2 * SIZE}")
        subprocess.run([need_tool("e2fsck"), "-f", "-y", place / "image"], check=False, capture_output=True)
        backing = os.open(place / "image", os.O_RDWR)
        try:
            with mounted_disk(world, backing):
                world.mount()
                assert (world.root / "safe").read_bytes() == content
                assert (world.root / "file").read_bytes() == content
                (world.root / "after").write_text("works again")
        finally:
            os.close(backing)
    finally:
        umount2(str(place), MNT_DETACH)


def overwhelm(path: Path) -> None:
    """Write more than the disk's own backing holds, to the disk itself."""
    with open(path, "wb", buffering=0) as stream:
        for _ in range(SIZE * 2 // 3 // MIB):
            stream.write(os.urandom(MIB))
            os.fsync(stream.fileno())


@pytest.mark.slow
def test_a_thousand_mounts_and_unmounts_leave_no_descriptor_mount_process_or_memory(world: World) -> None:
    def now() -> tuple[int, int, int]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), len(read_mountinfo()), len(children)

    def use() -> None:
        world.mount()
        (world.root / "dir" / "a").write_text("changed")
        assert (world.root / "file").read_text() == "file of the layer\n"
        world.unmount()

    for _ in range(10):
        use()
    before, memory = now(), resident(os.getpid())
    for _ in range(1000):
        use()
    assert now() == before
    assert resident(os.getpid()) - memory < 2 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(kind, *option.values, id=f"{kind}-{option.id}")
        for kind in STRESSORS
        for option in (OPTIONS if kind in OPENING else OPTIONS[:1])
    ],
)
def test_the_stressors_of_stress_ng_find_nothing_wrong_and_leave_nothing(
    make_world: MakeWorld, kind: str, options: dict[str, str]
) -> None:
    world = make_world(options=options)
    (world.layers[0] / "dir").mkdir()
    (world.layers[0] / "dir" / "kept").write_text("layer")
    world.mount()
    server, before = world.pid, listing(world.root)
    line = [need_tool("stress-ng"), "--timeout=2", "--verify", f"--temp-path={world.root}/dir", "--mmap-file"]
    line += [f"--{name}=1" for name in STRESSORS[kind]]
    line += [f"--{size}=16m" for size in STRESS_SIZES]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipping" not in done.stdout + done.stderr
    assert world.pid == server
    for _ in range(2):
        assert listing(world.root) == before
        world.remount()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["psync", "mmap"])
@pytest.mark.parametrize("options", OPTIONS)
def test_what_fio_wrote_at_random_is_read_back_unchanged(
    make_world: MakeWorld, options: dict[str, str], engine: str
) -> None:
    world = make_world(options=options)
    with open(world.layers[0] / "job.0.0", "wb") as stream:
        stream.write(os.urandom(16 * MIB))
    world.mount()
    line = [need_tool("fio"), "--name=job", f"--ioengine={engine}", "--rw=randwrite", "--bs=4k", "--size=16m"]
    line += [f"--directory={world.root}", "--numjobs=2", "--fsync=64", "--fallocate=none", "--thread"]
    line += ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--output-format=terse"]
    for more in ("--do_verify=1", "--verify_only"):
        done = subprocess.run([*line, more], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert (done.returncode, done.stderr) == (0, "")
        world.remount()
