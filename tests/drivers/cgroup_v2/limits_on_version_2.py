"""Limits of version 2, each proved by a process that runs into it; run in a machine that has only version 2."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import plugengine_cgroup_v1
import plugengine_cgroup_v2 as driver
import pytest

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError
from plugengine.kernel.loop import loop_attach
from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount, umount2
from plugengine.kernel.process import CLONE_NEWCGROUP, CLONE_NEWNS, unshare
from plugengine.model import CgroupRequest, DeviceRate, Host, HostPath, Limits
from plugengine.security import devices
from tests.drivers.control_groups import Group

MIB = 1 << 20
TOP = Path("/sys/fs/cgroup")


def take_memory(size: int) -> Callable[[], None]:
    def act() -> None:
        memory = mmap.mmap(-1, size)
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1

    return act


def test_this_machine_is_for_version_2_only(host: Host) -> None:
    assert driver.pe_cgroup_probe(host) == []
    assert plugengine_cgroup_v1.pe_cgroup_probe(host) == [
        "no controller is mounted as cgroup v1: this host uses the unified hierarchy, or none"
    ]


def test_a_memory_hog_is_killed_at_its_limit_and_this_is_counted(group: Group) -> None:
    group.limit(Limits(memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB))
    assert group.run(take_memory(16 * MIB)) == 0
    assert group.stats().oom_kills == 0
    assert group.run(take_memory(64 * MIB)) == -signal.SIGKILL
    assert group.stats().oom_kills == 1
    assert group.stats().memory_limit_bytes == 32 * MIB


def test_memory_limits_go_up_and_down_and_away(group: Group) -> None:
    for size in (32, 64, 16):
        group.limit(Limits(memory_bytes=size * MIB, memory_reservation_bytes=8 * MIB))
        assert group.text("", "memory.max") == str(size * MIB)
        assert group.text("", "memory.swap.max") == str(size * MIB)
        assert group.text("", "memory.low") == str(8 * MIB)
    group.limit(Limits(memory_bytes=-1, memory_swap_bytes=-1))
    assert group.stats().memory_limit_bytes is None


def test_two_busy_loops_get_half_a_processor(group: Group) -> None:
    group.limit(Limits(cpu_quota_us=50_000, cpu_shares=512))
    assert group.text("", "cpu.weight") == "59"

    def spin() -> None:
        while True:
            pass

    for _ in range(2):
        group.start(spin)
    time.sleep(0.5)
    before, start = group.stats().cpu_usage_ns, time.monotonic_ns()
    time.sleep(3)
    after, end = group.stats().cpu_usage_ns, time.monotonic_ns()
    assert before is not None
    assert after is not None
    # No more than that; less when others want the processors too.
    assert 0.02 < (after - before) / (end - start) < 0.65


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
    group.limit(Limits(pids=-1))
    assert group.text("", "pids.max") == "max"


def test_processors_can_be_chosen(group: Group) -> None:
    group.limit(Limits(cpuset_cpus="1", cpuset_mems="0"))
    assert group.run(lambda: 0 if os.sched_getaffinity(0) == {1} else 1) == 0


def test_the_write_rate_of_a_disk_is_held(group: Group, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with image.open("w+b") as file:
        file.truncate(16 * MIB)
        device, fd = loop_attach(file.fileno())
    number = os.fstat(fd).st_rdev
    rate = DeviceRate(major=os.major(number), minor=os.minor(number), rate=2 * MIB)

    def write() -> None:
        out = os.open(device, os.O_WRONLY | os.O_DIRECT)
        block = mmap.mmap(-1, 256 << 10)
        for _ in range(16):
            os.write(out, block)

    group.limit(Limits(write_bps=(rate,), read_iops=(rate,)))
    key = f"{rate.major}:{rate.minor}"
    assert group.text("", "io.max") == f"{key} rbps=max wbps={2 * MIB} riops={2 * MIB} wiops=max"
    start = time.monotonic()
    assert group.run(write) == 0
    assert time.monotonic() - start > 1.5
    assert (group.stats().write_bytes or 0) >= 4 * MIB
    os.close(fd)


def test_limits_and_devices_hold_together(group: Group, tmp_path: Path) -> None:
    group.limit(Limits(memory_bytes=64 * MIB, pids=20, devices=devices.RULES))

    def open_memory() -> None:
        os.mknod(tmp_path / "mem", 0o020600, os.makedev(1, 1))
        os.close(os.open(tmp_path / "mem", os.O_RDONLY))

    assert group.run(open_memory) == 1  # EPERM
    assert group.run(lambda: os.close(os.open("/dev/null", os.O_RDWR))) == 0


def test_a_parent_that_holds_processes_is_refused_with_the_way_out(host: Host) -> None:
    parent = TOP / "busy"
    parent.mkdir()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    (parent / "cgroup.procs").write_text(str(pid))
    with pytest.raises(DriverError, match=r"hand the memory controller .*/busy: Device or resource busy") as caught:
        driver.pe_cgroup_create(CgroupRequest(container_id="c1", parent="busy"))
    assert "--cgroup-parent" in (caught.value.hint or "")
    assert not (parent / "c1").exists()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert filesystem.until(lambda: not (parent / "cgroup.procs").read_text(), timeout_s=5)
    parent.rmdir()


def test_an_engine_in_a_container_makes_room_in_its_own_group(host: Host) -> None:
    """Its base is then the root of a cgroup namespace, with the engine's own processes in it."""
    outer = TOP / "outer"
    outer.mkdir()
    (TOP / "cgroup.subtree_control").write_text("+cpu +memory +pids")

    def inside() -> int:
        (outer / "cgroup.procs").write_text("0")
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        umount2(str(TOP), 0)
        mount("cgroup2", str(TOP), "cgroup2", 0, None)
        if driver.pe_cgroup_probe(host):
            return 1
        group = Group(driver, {}, CgroupRequest(container_id="c1", parent="plugengine"))
        group.record = driver.pe_cgroup_create(group.request)
        group.limit(Limits(memory_bytes=32 * MIB))
        if group.run(take_memory(96 * MIB)) != -signal.SIGKILL:
            return 2
        if not Path("/proc/self/cgroup").read_text().startswith("0::/plugengine-host"):
            return 3
        group.end()
        return 4 if (TOP / "plugengine").exists() else 0

    pid = os.fork()
    if pid == 0:
        status = 100
        try:
            status = inside()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    filesystem.remove(str(outer), timeout_s=5)


def test_the_guest_sees_its_limits(group: Group, tmp_path: Path) -> None:
    group.limit(Limits(memory_bytes=48 * MIB))
    (only,) = driver.pe_cgroup_mounts(group.request, HostPath(str(tmp_path)))

    def look() -> int:
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        mount(only.source, only.target, only.fstype, only.flags, None)
        return 0 if (tmp_path / "memory.max").read_text().strip() == str(48 * MIB) else 1

    assert group.run(look) == 0
