"""Groups of version 2: made, entered, frozen, killed, collected, shown to the guest."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import plugengine_cgroup_v2 as driver
import pytest
from plugengine_cgroup_v2 import groups, states
from plugengine_cgroup_v2.host import unified

from plugengine.cgroups import filesystem
from plugengine.errors import DriverError, NotSupportedError
from plugengine.kernel.mount import MS_PRIVATE, MS_REC, mount, umount2
from plugengine.kernel.process import CLONE_NEWCGROUP, CLONE_NEWNS, clone3, unshare
from plugengine.model import CgroupRequest, Host, HostPath, Limits, Setting, Settings
from tests.drivers.control_groups import PARENT, Group
from tests.waiting import PATIENCE_S


def test_a_group_is_removed_with_its_parents(group: Group) -> None:
    assert group.directory().is_dir()
    driver.pe_cgroup_remove(group.request, group.record)
    assert not group.directory().parent.exists()
    driver.pe_cgroup_remove(group.request, group.record)


def test_making_a_group_twice_is_making_it_once(group: Group) -> None:
    assert groups.create(group.request, unified()) == group.record


def own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_a_process_can_be_born_into_the_group(group: Group) -> None:
    directory = driver.pe_cgroup_entry(group.record).clone_into
    assert directory is not None
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    pid, pidfd = clone3(0, cgroup_fd=fd)
    if pid == 0:
        os._exit(0 if own_group().endswith(group.request.container_id) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(pidfd)
    os.close(fd)


def test_a_frozen_group_stands_still_until_it_is_thawed(group: Group, tmp_path: Path) -> None:
    clock = tmp_path / "clock"

    def tick() -> None:
        for number in range(100_000):
            clock.write_text(str(number))
            time.sleep(0.002)

    group.start(tick)
    assert filesystem.until(clock.exists, timeout_s=PATIENCE_S)
    driver.pe_cgroup_freeze(group.record, frozen=True)
    seen = clock.read_text()
    time.sleep(0.1)
    assert clock.read_text() == seen
    driver.pe_cgroup_freeze(group.record, frozen=False)
    assert filesystem.until(lambda: clock.read_text() not in ("", seen), timeout_s=PATIENCE_S)


@pytest.mark.parametrize("at_once", [True, False], ids=["cgroup.kill", "freezer"])
def test_everything_is_killed_however_it_forks(group: Group, *, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:  # the way of kernels before 5.14
        monkeypatch.setattr(states, "_KILL_FILE", "absent")
    processes = 40

    def bomb() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(3):
            os.fork()
        while True:  # eight processes, each always with a child that is just being made or ending
            pid = os.fork()
            if pid == 0:
                os.setsid()
                time.sleep(0.01)
                os._exit(0)
            os.waitpid(pid, 0)

    for _ in range(2):
        group.start(bomb)
    assert filesystem.until(lambda: len(group.pids()) > processes // 4, timeout_s=PATIENCE_S)
    driver.pe_cgroup_kill(group.request, group.record)
    assert group.pids() == ()


def test_a_frozen_process_is_killed_too(group: Group) -> None:
    pid = group.start(signal.pause)
    driver.pe_cgroup_freeze(group.record, frozen=True)
    driver.pe_cgroup_kill(group.request, group.record)
    assert group.wait(pid) == -signal.SIGKILL


def test_processes_of_nested_groups_count_and_are_killed(group: Group) -> None:
    nested = group.directory() / "nested"
    nested.mkdir()
    pid = group.start(signal.pause)
    (nested / "cgroup.procs").write_text(str(pid))
    assert group.pids() == (pid,)
    driver.pe_cgroup_kill(group.request, group.record)
    assert group.wait(pid) == -signal.SIGKILL
    driver.pe_cgroup_remove(group.request, group.record)
    assert not nested.exists()


def test_killing_an_empty_group_and_one_that_is_gone_is_nothing(group: Group) -> None:
    driver.pe_cgroup_kill(group.request, group.record)
    assert group.directory().exists()
    driver.pe_cgroup_remove(group.request, group.record)
    driver.pe_cgroup_kill(group.request, group.record)
    assert not group.directory().exists()


def test_thawing_a_group_that_is_gone_is_nothing_but_freezing_it_is_an_error(group: Group) -> None:
    driver.pe_cgroup_remove(group.request, group.record)
    driver.pe_cgroup_freeze(group.record, frozen=False)
    with pytest.raises(DriverError, match=r"cgroup\.freeze: No such file or directory"):
        driver.pe_cgroup_freeze(group.record, frozen=True)


def test_a_group_is_not_made_where_the_controllers_are_elsewhere(host: Host) -> None:
    reasons = driver.pe_cgroup_probe(host)
    request = CgroupRequest(container_id="c1", parent=PARENT, owner=host.root)
    if reasons:
        with pytest.raises(NotSupportedError, match=r"cgroup driver v2: cgroup v1 holds the controllers"):
            driver.pe_cgroup_create(request)
    else:
        driver.pe_cgroup_remove(request, driver.pe_cgroup_create(request))


def test_many_groups_come_and_go_below_one_parent_at_once(group: Group) -> None:
    """Each engine removes the parent with what it believes to be the last group; none may fail because of another."""
    parent = f"{group.request.parent}/shared"

    def come_and_go() -> None:
        for number in range(25):
            request = CgroupRequest(container_id=f"c{os.getpid()}-{number}", parent=parent)
            driver.pe_cgroup_remove(request, groups.create(request, unified()))

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
    assert not (group.directory().parent / "shared").exists()


def test_collecting_takes_only_this_engines_groups_of_no_container(host: Host, new_group: Callable[[], Group]) -> None:
    kept, lost = new_group(), new_group()
    pid = lost.start(signal.pause)
    parent = kept.request.parent
    other = Host(root=HostPath("/elsewhere"), run_root=HostPath("/elsewhere"), kernel=host.kernel)
    foreign = kept.directory().parent / "foreign"
    foreign.mkdir()
    assert driver.pe_cgroup_gc(other, parent, frozenset()) == []
    assert driver.pe_cgroup_gc(host, parent, frozenset({kept.request.container_id})) == [
        f"removed cgroup {parent}/{lost.request.container_id}"
    ]
    assert lost.wait(pid) == -signal.SIGKILL
    assert kept.directory().is_dir()
    foreign.rmdir()


def test_the_guest_sees_its_own_group_read_only(group: Group, tmp_path: Path) -> None:
    (only,) = driver.pe_cgroup_mounts(group.request, HostPath(str(tmp_path)))

    def look() -> int:
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        mount(only.source, only.target, only.fstype, only.flags, None)
        if str(os.getpid()) not in (tmp_path / "cgroup.procs").read_text().split():
            return 1
        try:
            (tmp_path / "nested").mkdir()
        except OSError as exc:
            return exc.errno or 2
        return 3

    assert group.run(look) == 30  # EROFS


def test_without_a_unified_hierarchy_every_verb_says_so(host: Host) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            unshare(CLONE_NEWNS)
            mount(None, "/", None, MS_REC | MS_PRIVATE, None)
            umount2("/sys/fs/cgroup", 2)  # MNT_DETACH, with all that is mounted below
            reasons = driver.pe_cgroup_probe(host)
            os.write(write_end, "; ".join(reasons).encode())
            try:
                driver.pe_cgroup_create(CgroupRequest(container_id="c1", parent=PARENT))
            except NotSupportedError:
                status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        assert answer.read() == "no cgroup2 filesystem is mounted: mount one at /sys/fs/cgroup"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_setting_the_kernel_refuses_is_named(group: Group) -> None:
    refused = Settings(writes=(Setting(controller="", file="cgroup.freeze", value="7"),))
    with pytest.raises(DriverError, match=r"write '7' to .*/cgroup\.freeze: "):
        driver.pe_cgroup_apply(group.record, refused, Limits())
