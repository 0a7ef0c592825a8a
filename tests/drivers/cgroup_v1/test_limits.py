"""Limits of version 1, each proved by a process that runs into it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import plugengine_cgroup_v1 as driver
import pytest

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError, UsageError
from plugengine.model import DeviceRate, DeviceRule, Limits
from plugengine.security import devices
from tests.conftest import need, need_tool
from tests.drivers.control_groups import Group
from tests.waiting import PATIENCE_S

MIB = 1 << 20


def take_memory(size: int) -> Callable[[], None]:
    def act() -> None:
        memory = mmap.mmap(-1, size)
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1

    return act


def test_a_memory_hog_is_killed_at_its_limit_and_this_is_counted(group: Group) -> None:
    group.limit(Limits(memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB))
    assert group.run(take_memory(16 * MIB)) == 0
    assert group.stats().oom_kills == 0
    assert group.run(take_memory(64 * MIB)) == -signal.SIGKILL
    assert group.stats().oom_kills == 1


def test_the_limit_is_shown_in_the_stats(group: Group) -> None:
    assert group.stats().memory_limit_bytes is None
    group.limit(Limits(memory_bytes=32 * MIB))
    assert group.stats().memory_limit_bytes == 32 * MIB


def test_memory_limits_go_up_and_down_and_away(group: Group) -> None:
    for size in (32, 64, 16, 128):
        group.limit(Limits(memory_bytes=size * MIB, memory_swap_bytes=size * MIB))
        assert group.text("memory", "memory.limit_in_bytes") == str(size * MIB)
    group.limit(Limits(memory_bytes=-1, memory_swap_bytes=-1))
    assert group.stats().memory_limit_bytes is None


def test_swap_is_twice_the_memory_when_unsaid(group: Group) -> None:
    group.limit(Limits(memory_bytes=32 * MIB))
    assert group.text("memory", "memory.memsw.limit_in_bytes") == str(64 * MIB)


def test_a_limit_below_what_cannot_be_freed_is_refused_with_the_file_and_value(group: Group) -> None:
    group.limit(Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB))
    memory = mmap.mmap(-1, 32 * MIB)  # shared, so that it is seen below when the child has filled it

    def hold() -> None:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        signal.pause()

    group.start(hold)
    assert filesystem.until(lambda: (group.stats().memory_bytes or 0) > 32 * MIB, timeout_s=PATIENCE_S)
    with pytest.raises(DriverError, match=r"write '\d+' to .*memory.limit_in_bytes: Device or resource busy"):
        group.limit(Limits(memory_bytes=16 * MIB, memory_swap_bytes=64 * MIB))


def test_two_busy_loops_get_half_a_processor(group: Group) -> None:
    group.limit(Limits(cpu_quota_us=25_000, cpu_period_us=50_000))

    def spin() -> None:
        while True:
            pass

    for _ in range(2):
        group.start(spin)
    time.sleep(0.3)
    before, start = group.stats().cpu_usage_ns, time.monotonic_ns()
    time.sleep(1.5)
    after, end = group.stats().cpu_usage_ns, time.monotonic_ns()
    assert before is not None
    assert after is not None
    # No more than that; less when others want the processors too.
    assert 0.02 < (after - before) / (end - start) < 0.6


def test_a_fork_bomb_stops_at_its_limit(group: Group) -> None:
    group.limit(Limits(pids=10))

    def fork_until_refused() -> int:
        for count in range(100):
            try:
                if os.fork() == 0:
                    signal.pause()
            except BlockingIOError:
                return count
        return 200

    assert group.run(fork_until_refused) == 9
    assert group.stats().pids == 9


def test_no_limit_of_processes_is_written_as_max(group: Group) -> None:
    group.limit(Limits(pids=10))
    group.limit(Limits(pids=-1))
    assert group.text("pids", "pids.max") == "max"


def test_processors_can_be_chosen(group: Group) -> None:
    group.limit(Limits(cpuset_cpus="0", cpuset_mems="0"))
    assert group.run(lambda: 0 if os.sched_getaffinity(0) == {0} else 1) == 0


def test_a_group_without_a_choice_has_all_processors(group: Group) -> None:
    everything = Path("/sys/fs/cgroup/cpuset/cpuset.cpus").read_text()
    assert group.directory("cpuset").joinpath("cpuset.cpus").read_text() == everything


def test_shares_and_reservation_are_written(group: Group) -> None:
    group.limit(Limits(cpu_shares=512, memory_reservation_bytes=8 * MIB))
    assert group.text("cpu", "cpu.shares") == "512"
    assert group.text("memory", "memory.soft_limit_in_bytes") == str(8 * MIB)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        pytest.param(Limits(memory_swap_bytes=MIB), "--memory-swap .* needs --memory", id="swap-alone"),
        pytest.param(Limits(memory_bytes=2 * MIB, memory_swap_bytes=MIB), "less than --memory", id="swap-less"),
        pytest.param(
            Limits(memory_bytes=MIB, memory_reservation_bytes=2 * MIB), "more than --memory", id="reservation"
        ),
        pytest.param(Limits(cpuset_cpus="0-9999"), "--cpuset-cpus 0-9999: .* not there", id="processors"),
        pytest.param(Limits(cpuset_cpus="a"), "not a list", id="no-list"),
        pytest.param(Limits(cpuset_mems="2-1"), "runs backwards", id="backwards"),
        pytest.param(Limits(cpuset_cpus="0-99999999999"), "not a list", id="huge-range"),
    ],
)
def test_limits_that_make_no_sense_are_refused(group: Group, limits: Limits, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        driver.pe_cgroup_settings(limits, group.request)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A mounted ext4 on a loop device, and the device's number."""
    need_tool("mkfs.ext4")
    losetup = need_tool("losetup")
    image, mount_point = tmp_path / "disk", tmp_path / "mnt"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount_point.mkdir()
    done = subprocess.run([losetup, "-f", "--show", image], capture_output=True, text=True, check=False)
    need(f"needs a loop device: {done.stderr}" if done.returncode else None)
    device = done.stdout.strip()
    try:
        subprocess.run(["mount", device, mount_point], check=True)
        try:
            yield mount_point, os.stat(device).st_rdev
        finally:
            subprocess.run(["umount", mount_point], check=True)
    finally:
        subprocess.run([losetup, "-d", device], check=True)


def test_the_write_rate_of_a_disk_is_held(group: Group, small_disk: tuple[Path, int]) -> None:
    mount_point, number = small_disk
    rate = DeviceRate(major=os.major(number), minor=os.minor(number), rate=2 * MIB)

    def write() -> None:
        # Past the page cache: version 1 does not know whose pages it writes back (blkio-controller.rst).
        fd = os.open(mount_point / "file", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        block = mmap.mmap(-1, 256 << 10)
        for _ in range(16):
            os.write(fd, block)
        os.fsync(fd)

    assert group.run(write) == 0
    group.limit(Limits(write_bps=(rate,)))
    start = time.monotonic()
    assert group.run(write) == 0
    limited = time.monotonic() - start
    assert limited > 1.5
    written = group.stats().write_bytes
    assert written is not None
    assert written >= 4 * MIB  # counted since the disk has a limit


def test_each_rate_has_its_file(group: Group, small_disk: tuple[Path, int]) -> None:
    _, number = small_disk
    rate = DeviceRate(major=os.major(number), minor=os.minor(number), rate=1000)
    settings = group.limit(Limits(read_bps=(rate,), write_bps=(rate,), read_iops=(rate,), write_iops=(rate,)))
    for write in settings.writes:
        assert group.directory("blkio").joinpath(write.file).read_text().strip() == write.value


def test_a_rate_of_a_device_that_is_not_there_is_an_error(group: Group) -> None:
    with pytest.raises(DriverError, match=r"blkio\.throttle.read_bps_device"):
        group.limit(Limits(read_bps=(DeviceRate(major=4000, minor=1, rate=1),)))


def open_device(kind: int, major: int, minor: int, path: Path, flags: int = os.O_RDONLY) -> Callable[[], None]:
    def act() -> None:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
        finally:
            path.unlink()

    return act


CHARACTER = 0o020000
BLOCK = 0o060000


@pytest.mark.parametrize(
    ("kind", "major", "minor", "expected"),
    [
        pytest.param(CHARACTER, 1, 3, 0, id="null"),
        pytest.param(CHARACTER, 1, 9, 0, id="urandom"),
        pytest.param(CHARACTER, 1, 1, errno.EPERM, id="mem"),
        pytest.param(CHARACTER, 10, 229, errno.EPERM, id="fuse"),
        pytest.param(BLOCK, 7, 0, errno.EPERM, id="loop"),
    ],
)
def test_only_listed_devices_open(
    group: Group, tmp_path: Path, kind: int, major: int, minor: int, expected: int
) -> None:
    group.limit(Limits(devices=devices.RULES))
    assert group.run(open_device(kind, major, minor, tmp_path / "node")) == expected


def test_access_is_split_into_reading_writing_and_making(group: Group, tmp_path: Path) -> None:
    group.limit(Limits(devices=(DeviceRule(type="c", major=1, minor=5, access="rm"),)))
    assert group.run(open_device(CHARACTER, 1, 5, tmp_path / "node")) == 0
    assert group.run(open_device(CHARACTER, 1, 5, tmp_path / "node", os.O_WRONLY)) == errno.EPERM
    assert group.run(open_device(CHARACTER, 1, 3, tmp_path / "node")) == errno.EPERM  # mknod


def test_a_rule_for_both_kinds_does_not_open_everything(group: Group, tmp_path: Path) -> None:
    group.limit(Limits(devices=(DeviceRule(type="a", major=1, minor=None, access="rwm"),)))
    assert group.run(open_device(CHARACTER, 1, 3, tmp_path / "node")) == 0
    assert group.run(open_device(CHARACTER, 10, 229, tmp_path / "node")) == errno.EPERM


def test_a_rule_for_everything_and_no_list_open_everything(group: Group, tmp_path: Path) -> None:
    assert group.run(open_device(CHARACTER, 10, 229, tmp_path / "node")) in (0, errno.ENXIO, errno.ENODEV)
    group.limit(Limits(devices=(DeviceRule(type="a", major=None, minor=None, access="rwm"),)))
    assert group.directory("devices").joinpath("devices.list").read_text() == "a *:* rwm\n"


def denies_everything(group: Group) -> bool:
    try:
        group.limit(Limits(devices=()))
    except DriverError:
        return False
    return True


def test_devices_are_not_rewritten_when_they_are_as_wanted(group: Group) -> None:
    limits = Limits(devices=devices.RULES)
    group.limit(limits)
    nested = group.directory("devices") / "nested"
    nested.mkdir()  # from now on "a" is refused with EINVAL
    group.limit(limits)
    with pytest.raises(DriverError, match=r"devices\.deny: Invalid argument"):
        group.limit(Limits(devices=()))
    nested.rmdir()
    # The kernel forgets the child some moments later.
    assert filesystem.until(lambda: denies_everything(group), timeout_s=PATIENCE_S)
    assert group.directory("devices").joinpath("devices.list").read_text() == ""
