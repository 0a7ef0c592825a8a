"""Option `size`: the container's changes never take more on disk, and what is freed can be used again."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import plugengine_fuse_union as driver
import pytest

from plugengine.kernel.files import fallocate
from plugengine.model import Capability, HostPath
from plugengine.trees.upper import usage
from tests import waiting
from tests.drivers.fuse_union.conftest import MakeWorld, as_user
from tests.drivers.fuse_union.test_differential import act_at_random
from tests.drivers.fuse_union.test_differential import fill as fill_layers
from tests.drivers.fuse_union.world import World

MIB = 1 << 20
SIZE = 4 * MIB
BLOCK = 4096
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
PUNCH_HOLE = 3  # with KEEP_SIZE
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EPERM}


@pytest.fixture(params=["auto", "off"])
def small(make_world: MakeWorld, request: pytest.FixtureRequest) -> World:
    """A union of at most four megabytes of changes, mounted."""
    world = make_world(options={"size": "4m", "passthrough": request.param})
    layer = world.layers[0]
    (layer / "dir").mkdir()
    (layer / "big").write_bytes(os.urandom(3 * MIB))
    (layer / "huge").write_bytes(os.urandom(5 * MIB))
    (layer / "dir" / "file").write_text("file of the layer\n")
    return world.mount()


def used(world: World) -> int:
    return usage(HostPath(str(world.upper))).size_bytes


def counted(world: World) -> int:
    status = os.statvfs(world.root)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def settled(world: World) -> bool:
    """Tell whether what is counted is what is there, as soon as the kernel has forgotten what was removed."""
    counts = waiting.settled(lambda: (counted(world), used(world)), lambda counts: counts[0] == counts[1])
    return counts[0] == counts[1]


def refuses(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            return True
        raise
    return False


def append(path: Path, data: bytes = b"x") -> None:
    with open(path, "ab", buffering=0) as stream:
        stream.write(data)


def fill(path: Path, chunk: int = 100_000) -> int:
    """Write until there is no room and return how much there was."""
    total = 0
    try:
        with open(path, "ab", buffering=0) as stream:
            while True:
                total += stream.write(b"x" * chunk)
                assert total < 4 * SIZE
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise
    return total


def test_the_driver_claims_quotas() -> None:
    assert Capability.QUOTA in driver.pe_storage_info().capabilities


@pytest.mark.parametrize("chunk", [1000, 100_000, 3 * MIB])
def test_writing_ends_at_the_limit_and_what_fits_is_kept(small: World, chunk: int) -> None:
    total = fill(small.root / "new", chunk)
    assert SIZE - 2 * BLOCK <= total <= SIZE
    assert (small.root / "new").read_bytes() == b"x" * total
    assert used(small) <= SIZE


def test_the_limit_holds_while_the_filesystem_writes_back(small: World) -> None:
    """ext4 shows fewer blocks for a moment while it allocates those of dirty pages, and one more for many extents."""
    syncing = subprocess.Popen(["sh", "-c", 'while :; do sync -f "$1"; done', "sh", str(small.upper)])
    try:
        for _ in range(10):
            size = fill(small.root / "new", 8192)
            assert size <= SIZE
            assert used(small) <= SIZE + BLOCK
            (small.root / "new").unlink()
    finally:
        syncing.kill()
        syncing.wait()


def test_the_filesystem_has_the_size_of_the_limit(small: World) -> None:
    status = os.statvfs(small.root)
    assert status.f_blocks * status.f_frsize == SIZE
    (small.root / "new").write_bytes(bytes(MIB))
    after = os.statvfs(small.root)
    assert (status.f_bavail - after.f_bavail) * status.f_frsize == MIB


def test_what_was_there_before_the_mount_counts(small: World) -> None:
    (small.root / "new").write_bytes(b"x" * 3 * MIB)
    small.remount()
    assert fill(small.root / "more") <= MIB


def test_removing_makes_room_but_only_when_nobody_has_it_open(small: World) -> None:
    fill(small.root / "new")
    with open(small.root / "new", "rb"):
        (small.root / "new").unlink()
        assert fill(small.root / "other") == 0
    assert fill(small.root / "other") >= SIZE - 3 * BLOCK


def test_replacing_truncating_and_punching_make_room(small: World) -> None:
    (small.root / "a").write_bytes(bytes(2 * MIB))
    (small.root / "b").write_bytes(b"")
    os.rename(small.root / "b", small.root / "a")
    (small.root / "b").write_bytes(b"x" * 3 * MIB)
    os.truncate(small.root / "b", MIB)
    (small.root / "c").write_bytes(b"x" * 2 * MIB)
    with open(small.root / "c", "r+b") as stream:
        fallocate(stream.fileno(), PUNCH_HOLE, 0, MIB)
    with open(small.root / "b", "wb"):
        pass
    (small.root / "d").write_bytes(b"x" * (3 * MIB - 2 * BLOCK))
    assert used(small) <= SIZE
    assert fill(small.root / "rest") <= 2 * BLOCK


def test_the_last_bytes_of_a_block_can_be_written_and_data_overwritten_at_the_limit(small: World) -> None:
    (small.root / "tail").write_bytes(b"x" * 100)
    fill(small.root / "new")
    with open(small.root / "tail", "ab") as stream:
        stream.write(b"y" * (BLOCK - 100))
    with open(small.root / "new", "r+b") as stream:
        stream.write(b"z" * MIB)
    os.truncate(small.root / "new", 10 * SIZE)
    assert refuses(lambda: append(small.root / "new"))
    assert used(small) <= SIZE


def test_a_copy_up_that_does_not_fit_is_refused_and_leaves_nothing(small: World) -> None:
    assert refuses(lambda: append(small.root / "huge"))
    assert refuses(lambda: os.chmod(small.root / "huge", 0o600))
    append(small.root / "big")
    assert refuses(lambda: append(small.root / "huge"))
    assert os.listdir(small.base / "s" / "work" / "stage") == []
    assert sorted(os.listdir(small.upper)) == ["big"]
    os.truncate(small.root / "huge", 1000)


def test_readers_of_the_layers_file_do_not_lead_around_the_limit(small: World) -> None:
    with open(small.root / "dir" / "file", "rb") as reader:
        assert reader.read(4) == b"file"
        total = fill(small.root / "dir" / "file")
        with open(small.root / "dir" / "file", "rb") as other:
            assert len(other.read()) == total + len("file of the layer\n")
    assert used(small) <= SIZE


def test_allocating_and_copying_inside_the_kernel_end_at_the_limit(small: World) -> None:
    with open(small.root / "new", "w+b") as new, open(small.root / "huge", "rb") as huge:
        assert refuses(lambda: os.posix_fallocate(new.fileno(), 0, 5 * MIB))
        with pytest.raises(OSError) as caught:
            fallocate(new.fileno(), KEEP_SIZE, 0, MIB)
        assert caught.value.errno == errno.EOPNOTSUPP
        while not refuses(lambda: os.copy_file_range(huge.fileno(), new.fileno(), 5 * MIB)):
            pass
        assert SIZE - 2 * BLOCK <= os.fstat(new.fileno()).st_size <= SIZE
        new.seek(0)
        os.ftruncate(new.fileno(), 0)
        os.posix_fallocate(new.fileno(), 0, SIZE - BLOCK)
        new.write(b"x" * (SIZE - BLOCK))  # what is allotted can be written
    assert used(small) <= SIZE


def test_shared_mappings_stay_inside_the_limit(small: World) -> None:
    with open(small.root / "sparse", "w+b") as stream:
        os.ftruncate(stream.fileno(), 2 * SIZE)
        with mmap.mmap(stream.fileno(), 2 * SIZE) as memory:
            for position in range(0, 2 * SIZE, BLOCK):
                memory[position] = 1
            assert refuses(memory.flush)
    assert used(small) <= SIZE


def test_an_ordinary_user_and_files_without_a_name_count(small: World) -> None:
    small.root.chmod(0o777)
    small.base.parent.chmod(0o755)

    def act() -> None:
        fd = os.open(small.root, os.O_TMPFILE | os.O_RDWR)
        while not refuses(lambda: os.write(fd, bytes(MIB))):
            pass
        assert refuses(lambda: (small.root / "more").mkdir())
        os.close(fd)
        (small.root / "more").mkdir()

    as_user(1234, act)


def test_what_is_counted_is_what_is_on_the_disk_after_many_changes(small: World) -> None:
    dice = random.Random(7)
    for number in range(300):
        (small.layers[0] / "dir" / f"lower{number}").write_bytes(b"l" * dice.randrange(9000))
    small.remount()
    names = [small.root / "dir" / name for name in os.listdir(small.root / "dir")]
    for step in range(1500):
        path = dice.choice(names)
        try:
            _change(dice, path, path.parent / f"n{step}", names)
        except OSError as exc:
            if exc.errno not in EXPECTED:
                raise
        # A rename is never refused for the block by which it makes a directory grow; all names here fit in four.
        assert step % 100 or used(small) <= SIZE + 4 * BLOCK
    assert settled(small)
    with os.scandir(small.root / "dir") as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    assert settled(small)


def test_the_count_stays_right_whatever_four_processes_do_at_once(make_world: MakeWorld) -> None:
    world = make_world(layers=3, options={"size": "1g"})
    fill_layers(world)
    world.mount()
    for seed in range(4):
        if os.fork() == 0:
            try:
                act_at_random(str(world.root), seed)
            finally:
                os._exit(0)
    for _ in range(4):
        os.wait()
    assert settled(world), (counted(world), used(world))


def test_the_limit_holds_on_a_filesystem_without_quotas(make_world: MakeWorld) -> None:
    world = make_world(options={"size": "4m"})
    world.mount_storage_tmpfs("size=64m")
    world.mount()
    total = fill(world.root / "new")
    assert SIZE - 2 * BLOCK <= total <= SIZE
    (world.root / "new").unlink()
    assert fill(world.root / "other") == total
    assert used(world) <= SIZE


def _change(dice: random.Random, path: Path, fresh: Path, names: list[Path]) -> None:
    kind = dice.randrange(9)
    if kind == 0:
        names.append(fresh)
        fresh.write_bytes(b"n" * dice.randrange(60_000))
    elif kind == 1:
        path.unlink()
    elif kind == 2:
        os.link(path, fresh)
        names.append(fresh)
    elif kind == 3:
        os.rename(path, dice.choice(names))
    elif kind == 4:
        os.truncate(path, dice.randrange(20_000))
    elif kind == 5:
        os.setxattr(path, "user.long", b"v" * dice.randrange(3000))
    elif kind == 6:
        fresh.mkdir()
        os.rename(fresh, fresh.parent / f"d{fresh.name}")
    elif kind == 7:
        fresh.symlink_to("x" * dice.randrange(1, 2000))
        names.append(fresh)
    else:
        with open(path, "r+b") as stream:
            stream.seek(dice.randrange(30_000))
            stream.write(b"w" * dice.randrange(10_000))
