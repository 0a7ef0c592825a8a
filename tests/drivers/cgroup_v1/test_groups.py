"""Groups of version 1: made, entered, frozen, killed, collected, shown to the guest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import plugengine_cgroup_v1 as driver
import pytest
from plugengine_cgroup_v1 import groups
from plugengine_cgroup_v1.host import ControllerSet
from plugengine_cgroup_v1.limits import limits_to_settings

from plugengine.cgroups import filesystem
from plugengine.cgroups.filesystem import Hierarchy
from plugengine.errors import DriverError, UsageError
from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWCGROUP, CLONE_NEWNS, unshare
from plugengine.model import Capability, CgroupRequest, DeviceRate, Host, HostPath, Limits, Record
from tests.drivers.control_groups import PARENT, Group
from tests.waiting import PATIENCE_S

MIB = 1 << 20


def ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def test_a_group_is_made_in_every_hierarchy_and_removed_with_its_parents(host: Host, group: Group) -> None:
    directories = set(group.record["groups"].values())
    assert {"cpu", "cpuset", "devices", "memory", "pids"} <= set(group.record["groups"])
    assert all(os.path.isdir(directory) for directory in directories)
    driver.pe_cgroup_remove(group.request, group.record)
    assert not any(os.path.exists(os.path.dirname(directory)) for directory in directories)
    driver.pe_cgroup_remove(group.request, group.record)


def test_the_claims_are_freezing_and_devices() -> None:
    assert driver.pe_cgroup_info().capabilities == {Capability.FREEZE, Capability.DEVICES}


def test_making_a_group_twice_is_making_it_once(group: Group) -> None:
    assert driver.pe_cgroup_create(group.request) == group.record


def test_a_failure_leaves_nothing_behind(group: Group, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    broken = Hierarchy(1, ("pids",), str(file), str(file))
    controllers = ControllerSet((*ControllerSet.of_this_host().mounted[:3], broken))
    request = CgroupRequest(container_id="broken", parent=group.request.parent)
    with pytest.raises(DriverError, match=f"make cgroup {file}/.*: Not a directory"):
        groups.create(request, controllers)
    assert not any(Path(directory).parent.joinpath("broken").exists() for directory in group.record["groups"].values())


def test_a_parent_that_is_not_ours_is_kept(new_group: Callable[[], Group]) -> None:
    group = new_group()
    theirs = group.directory("pids").parent / "theirs"
    theirs.mkdir()
    request = CgroupRequest(container_id="c1", parent=f"{group.request.parent}/theirs")
    record = driver.pe_cgroup_create(request)
    driver.pe_cgroup_remove(request, record)
    assert theirs.is_dir()
    assert not (group.directory("memory").parent / "theirs").exists()
    theirs.rmdir()


@pytest.mark.parametrize("parent", ["..", "a/../b", "a\nb"])
def test_a_parent_that_climbs_is_refused(parent: str) -> None:
    with pytest.raises(UsageError, match="--cgroup-parent"):
        driver.pe_cgroup_create(CgroupRequest(container_id="c1", parent=parent))


def own_groups() -> str:
    return Path("/proc/self/cgroup").read_text()


def test_a_process_that_enters_by_itself_is_in_every_group(group: Group) -> None:
    name = group.request.container_id
    assert group.run(lambda: sum(name not in line for line in own_groups().splitlines())) == 0


def test_entering_by_itself_does_not_wait_for_every_processor_to_pass_through_the_scheduler(group: Group) -> None:
    """As being moved by another does, see cgroup_threadgroup_rwsem of the kernel: a wait of 10 ms and more."""

    def entering() -> float:
        entry = driver.pe_cgroup_entry(group.record)
        start = time.monotonic()
        for path in entry.tasks:
            Path(path).write_text("0")
        return time.monotonic() - start

    assert min(in_a_child(entering) for _ in range(30)) < 0.005


def in_a_child(measure: Callable[[], float]) -> float:
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(send, repr(measure()).encode())
        os._exit(0)
    os.close(send)
    with open(receive) as pipe:
        found = float(pipe.read())
    os.waitpid(pid, 0)
    return found


def ticking(path: Path) -> Callable[[], None]:
    def act() -> None:
        for number in range(100_000):
            path.write_text(str(number))
            time.sleep(0.002)

    return act


def test_a_frozen_group_stands_still_until_it_is_thawed(group: Group, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    group.start(ticking(clock))
    assert filesystem.until(clock.exists, timeout_s=PATIENCE_S)
    driver.pe_cgroup_freeze(group.record, frozen=True)
    seen = clock.read_text()
    time.sleep(0.1)
    assert clock.read_text() == seen
    driver.pe_cgroup_freeze(group.record, frozen=True)
    driver.pe_cgroup_freeze(group.record, frozen=False)
    assert filesystem.until(lambda: clock.read_text() not in ("", seen), timeout_s=PATIENCE_S)


def without_unified(record: Record) -> Record:
    return {**record, "groups": {name: path for name, path in record["groups"].items() if name}}


def without_freezer(record: Record) -> Record:
    return {**record, "groups": {name: path for name, path in record["groups"].items() if name not in ("", "freezer")}}


WAYS = [
    pytest.param(lambda record: record, id="cgroup.kill"),
    pytest.param(without_unified, id="freezer"),
    pytest.param(without_freezer, id="neither"),
]


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_killed_however_it_forks(group: Group, way: Callable[[Record], Record]) -> None:
    group.limit(Limits(pids=40))

    def bomb() -> None:
        ignore_signals()
        while True:
            try:
                os.fork()
                os.setsid() if os.fork() == 0 else time.sleep(0.001)
            except OSError:
                time.sleep(0.001)

    for _ in range(2):
        group.start(bomb)
    assert filesystem.until(lambda: (group.stats().pids or 0) >= 40, timeout_s=PATIENCE_S)
    driver.pe_cgroup_kill(group.request, way(group.record))
    assert driver.pe_cgroup_pids(group.record) == ()


@pytest.mark.parametrize("way", WAYS[:2])
def test_a_frozen_process_is_killed_too(group: Group, way: Callable[[Record], Record]) -> None:
    pid = group.start(signal.pause)
    driver.pe_cgroup_freeze(group.record, frozen=True)
    driver.pe_cgroup_kill(group.request, way(group.record))
    assert group.wait(pid) == -signal.SIGKILL


def test_killing_an_empty_group_and_one_that_is_gone_is_nothing(group: Group) -> None:
    driver.pe_cgroup_kill(group.request, group.record)
    driver.pe_cgroup_remove(group.request, group.record)
    driver.pe_cgroup_kill(group.request, group.record)
    assert driver.pe_cgroup_pids(group.record) == ()


def test_thawing_a_group_that_is_gone_is_nothing_but_freezing_it_is_an_error(group: Group) -> None:
    driver.pe_cgroup_remove(group.request, group.record)
    driver.pe_cgroup_freeze(group.record, frozen=False)
    with pytest.raises(DriverError, match=r"freezer\.state: No such file or directory"):
        driver.pe_cgroup_freeze(group.record, frozen=True)


def test_processes_of_nested_groups_count_and_are_killed(group: Group) -> None:
    nested = group.directory("pids") / "nested"
    nested.mkdir()
    pid = group.start(signal.pause)
    (nested / "cgroup.procs").write_text(str(pid))
    assert driver.pe_cgroup_pids(group.record) == (pid,)
    driver.pe_cgroup_kill(group.request, group.record)
    assert group.wait(pid) == -signal.SIGKILL
    driver.pe_cgroup_remove(group.request, group.record)
    assert not nested.exists()


def test_a_group_in_use_is_not_removed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = group.start(signal.pause)
    with pytest.raises(DriverError, match="Device or resource busy") as caught:
        filesystem.remove(str(group.directory("pids")), timeout_s=0.05)
    assert caught.value.hint == f"processes in it: {pid}"


def test_many_groups_come_and_go_below_one_parent_at_once(group: Group) -> None:
    """Each engine removes the parent with what it believes to be the last group; none may fail because of another."""
    parent = f"{group.request.parent}/shared"

    def come_and_go() -> None:
        for number in range(25):
            request = CgroupRequest(container_id=f"c{os.getpid()}-{number}", parent=parent)
            driver.pe_cgroup_remove(request, driver.pe_cgroup_create(request))

    children = []
    for _ in range(6):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                come_and_go()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * len(children)
    assert not (group.directory("memory").parent / "shared").exists()


def test_collecting_takes_this_engines_groups_of_no_container(host: Host, new_group: Callable[[], Group]) -> None:
    kept, lost = new_group(), new_group()
    pid = lost.start(signal.pause)
    parent = kept.request.parent
    lines = driver.pe_cgroup_gc(host, parent, frozenset({kept.request.container_id}))
    assert lines == [f"removed cgroup {parent}/{lost.request.container_id}"]
    assert lost.wait(pid) == -signal.SIGKILL
    assert kept.directory("memory").is_dir()
    assert driver.pe_cgroup_gc(host, parent, frozenset({kept.request.container_id})) == []


def test_collecting_leaves_groups_of_other_engines_and_of_nobody(host: Host, group: Group) -> None:
    pid = group.start(signal.pause)
    other = Host(root=HostPath("/elsewhere"), run_root=HostPath("/elsewhere"), kernel=host.kernel)
    foreign = group.directory("pids").parent / "foreign"
    foreign.mkdir()
    assert driver.pe_cgroup_gc(other, group.request.parent, frozenset()) == []
    assert driver.pe_cgroup_gc(host, group.request.parent, frozenset({group.request.container_id})) == []
    foreign.rmdir()
    assert driver.pe_cgroup_pids(group.record) == (pid,)


def test_collecting_below_a_parent_that_is_not_there_is_nothing(host: Host) -> None:
    assert driver.pe_cgroup_gc(host, f"{PARENT}/nowhere", frozenset()) == []


def test_the_guest_sees_its_own_groups_read_only(group: Group, tmp_path: Path) -> None:
    group.limit(Limits(memory_bytes=48 * MIB))
    target = tmp_path / "cgroup"
    target.mkdir()

    def look() -> int:
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        for each in driver.pe_cgroup_mounts(group.request, HostPath(str(target))):
            os.makedirs(each.target, exist_ok=True)
            flags = each.flags & ~1 if each.fstype == "tmpfs" else each.flags
            data = ",".join(key if value is None else f"{key}={value}" for key, value in each.options)
            mount(each.source, each.target, each.fstype, flags, data)
        if not all(line.endswith(":/") for line in own_groups().splitlines()):
            return 1
        if (target / "memory/memory.limit_in_bytes").read_text().strip() != str(48 * MIB):
            return 2
        if {"cpu", "memory", "pids", "systemd"} - set(os.listdir(target)):
            return 3
        try:
            (target / "memory/memory.limit_in_bytes").write_text("-1")
        except OSError as exc:
            return exc.errno or 4
        return 5

    assert group.run(look) == 30  # EROFS


def test_a_host_without_version_1_says_so() -> None:
    unified = ControllerSet((Hierarchy(2, (), "/sys/fs/cgroup", "/sys/fs/cgroup"),))
    assert unified.reasons() == [
        "no controller is mounted as cgroup v1: this host uses the unified hierarchy, or none",
    ]


def test_the_reasons_name_what_is_missing_or_read_only(host: Host) -> None:
    mounted = tuple(
        each._replace(mount_point="/nowhere", own="/nowhere") if "cpu" in each.names else each
        for each in ControllerSet.of_this_host().mounted
        if "memory" not in each.names
    )
    assert ControllerSet(mounted).reasons() == [
        "no cgroup v1 hierarchy with the memory controller is mounted",
        "the cgroup v1 hierarchy of the cpu controller can't be written: run as root, with it mounted rw",
    ]
    assert driver.pe_cgroup_probe(host) == []


def test_limits_without_their_controller_are_named_by_their_flag() -> None:
    rate = (DeviceRate(major=1, minor=1, rate=1),)
    asked = Limits(
        memory_bytes=MIB,
        memory_reservation_bytes=MIB,
        cpu_quota_us=1000,
        cpu_shares=2,
        cpuset_cpus="0",
        pids=5,
        blkio_weight=10,
        read_bps=rate,
        devices=(),
    )
    found = limits_to_settings(asked, ControllerSet(()))
    assert found.writes == ()
    assert found.unsupported == (
        "--cpuset-cpus: no cpuset controller on this host",
        "--cpu-shares: no cpu controller on this host",
        "--cpus: no cpu controller on this host",
        "--memory: no memory controller on this host",
        "--memory-reservation: no memory controller on this host",
        "--pids-limit: no pids controller on this host",
        "--blkio-weight: no blkio controller on this host",
        "--device-read-bps: no blkio controller on this host",
        "device allow-list: no devices controller on this host",
    )


def test_the_accounting_of_a_group_that_is_gone_is_empty(group: Group) -> None:
    driver.pe_cgroup_remove(group.request, group.record)
    found = group.stats()
    assert found.memory_bytes is None
    assert found.oom_kills == 0


def test_memory_and_processor_time_are_accounted(group: Group) -> None:
    def work() -> None:
        end = time.process_time() + 0.05
        data = bytearray(8 * MIB)
        while time.process_time() < end:
            data[0] += 0
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = group.start(work)
    os.waitpid(pid, os.WUNTRACED)
    found = group.stats()
    assert (found.cpu_usage_ns or 0) > 40_000_000
    assert (found.memory_bytes or 0) > 8 * MIB
    assert found.pids == 1
