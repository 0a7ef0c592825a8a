"""Cgroup cases: update, freeze, kill, and the accounting, of groups in use."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from plugengine.cgroups import filesystem
from plugengine.errors import NotSupportedError, PlugengineError
from plugengine.model import Capability, Limits
from plugengine.testing.cases import Unsuitable, case, expect, expect_equal, fail, soon
from plugengine.testing.cgroup.contract import own_groups
from plugengine.testing.cgroup.group import Group
from plugengine.testing.cgroup.processes import (
    MIB,
    count_in,
    counted,
    fork_bomb,
    fork_until_refused,
    hold_memory,
    processor_time_s,
    spin,
    take_memory,
    use_processor,
    wait,
    wait_stubbornly,
)
from plugengine.testing.cgroup.subject import Subject

_BOMB_PIDS = 40
_STILL_S = 0.15
_FREEZE = [Capability.FREEZE]


# --- update ------------------------------------------------------------------------------------------------


@case("cgroup.update.memory")
def memory_limits_go_up_and_down(subject: Subject) -> None:
    """The memory limit is raised, lowered and taken away while the group exists, in any order."""
    group = subject.group()
    for size in (32, 96, 24):
        group.limit(Limits(memory_bytes=size * MIB, memory_swap_bytes=size * MIB))
        expect_equal(group.stats().memory_limit_bytes, size * MIB, "memory limit in the stats")
        expect_equal(group.run(take_memory((size - 16) * MIB)), 0, f"exit code of a process below {size} MiB")
        expect_equal(group.run(take_memory(2 * size * MIB)), -signal.SIGKILL, f"the end of a process above {size} MiB")


@case("cgroup.update.running")
def a_running_process_feels_the_update(subject: Subject) -> None:
    """A process that was refused to fork may do so once the limit is raised, without being started again."""
    group = subject.group()
    group.limit(Limits(pids=3))
    at_limit, raised = f"{subject.scratch}/at-limit", f"{subject.scratch}/raised"

    def fork_twice() -> list[int]:
        first = fork_until_refused(10)()
        os.mkdir(at_limit)
        soon(lambda: os.path.exists(raised))
        return [first, fork_until_refused(3)()]

    child = group.start(fork_twice)
    expect(soon(lambda: os.path.exists(at_limit)), "the process did not reach its limit")
    group.limit(Limits(pids=10))
    os.mkdir(raised)
    expect_equal(child.result(), [2, 3], "children before and after the limit was raised")


@case("cgroup.update.processor")
def a_busy_process_feels_the_quota(subject: Subject) -> None:
    """A quota given to a group in which a process is busy already holds it back."""
    group = subject.group()
    pid = group.start(spin).pid
    group.limit(Limits(cpu_quota_us=5_000, cpu_period_us=50_000))
    time.sleep(_STILL_S)
    before, start = processor_time_s(pid), time.monotonic()
    time.sleep(1.0)
    share = (processor_time_s(pid) - before) / (time.monotonic() - start)
    expect(share < 0.2, f"of one processor {share:.2f} was used, the quota is 0.10")


@case("cgroup.update.same")
def applying_twice_is_applying_once(subject: Subject) -> None:
    """The same limits may be applied again, also while processes run."""
    group = subject.group()
    limits = Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB, pids=20, cpu_shares=512)
    group.limit(limits)
    group.start(wait)
    group.limit(limits)
    expect_equal(group.stats().memory_limit_bytes, 64 * MIB, "memory limit in the stats")


# --- freeze ------------------------------------------------------------------------------------------------


@case("cgroup.freeze.stands-still", needs=_FREEZE)
def a_frozen_group_stands_still(subject: Subject) -> None:
    """When freeze returns no process of the group makes progress, until it is thawed; another group runs on."""
    group, other = subject.group(), subject.group()
    clocks = [f"{subject.scratch}/clock-{number}" for number in range(3)]
    for clock, owner in zip(clocks, (group, group, other), strict=True):
        owner.start(count_in(clock))
    expect(soon(lambda: all(counted(clock) for clock in clocks)), "the processes did not begin")
    subject.driver.freeze(group.record, frozen=True)
    seen = [counted(clock) for clock in clocks]
    time.sleep(_STILL_S)
    now = [counted(clock) for clock in clocks]
    expect_equal(now[:2], seen[:2], "counts of frozen processes a while later")
    expect(soon(lambda: counted(clocks[2]) > seen[2]), "a process of another group stands still, too")
    subject.driver.freeze(group.record, frozen=False)
    expect(soon(lambda: all(counted(clock) > count for clock, count in zip(clocks, seen, strict=True))), "not thawed")


@case("cgroup.freeze.twice", needs=_FREEZE)
def freezing_twice_is_freezing_once(subject: Subject) -> None:
    """Freezing what is frozen and thawing what is thawed succeed."""
    group = subject.group()
    clock = f"{subject.scratch}/clock"
    group.start(count_in(clock))
    expect(soon(lambda: counted(clock)), "the process did not begin")
    for frozen in (False, True, True, False, False):
        subject.driver.freeze(group.record, frozen=frozen)
    seen = counted(clock)
    expect(soon(lambda: counted(clock) > seen), "thawed twice, but it stands still")


@case("cgroup.freeze.forking", needs=_FREEZE)
def what_forks_is_frozen_whole(subject: Subject) -> None:
    """A group whose processes fork all the time is frozen whole: its pids stay the same."""
    group = subject.group()
    group.limit(Limits(pids=_BOMB_PIDS))
    group.start(_fork_and_reap)
    expect(soon(lambda: len(subject.driver.pids(group.record)) > 1), "the process did not begin to fork")
    subject.driver.freeze(group.record, frozen=True)
    before = subject.driver.pids(group.record)
    used = [processor_time_s(pid) for pid in before]
    time.sleep(_STILL_S)
    expect_equal(subject.driver.pids(group.record), before, "pids of the frozen group a while later")
    expect_equal([processor_time_s(pid) for pid in before], used, "processor time of frozen processes")
    subject.driver.freeze(group.record, frozen=False)


def _fork_and_reap() -> None:
    while True:
        pid = os.fork()
        if pid == 0:
            time.sleep(0.01)
            os._exit(0)
        time.sleep(0.002)
        os.waitpid(pid, os.WNOHANG)


@case("cgroup.freeze.empty", needs=_FREEZE)
def an_empty_group_is_frozen_and_thawed(subject: Subject) -> None:
    """A group without processes is frozen and thawed, and thawing one that is gone succeeds."""
    group = subject.group()
    subject.driver.freeze(group.record, frozen=True)
    subject.driver.freeze(group.record, frozen=False)
    subject.driver.remove(group.request, group.record)
    subject.driver.freeze(group.record, frozen=False)


@case("cgroup.freeze.not-claimed", refused=Capability.FREEZE)
def freezing_is_refused_by_who_cannot(subject: Subject) -> None:
    """A driver that does not claim FREEZE raises NotSupportedError."""
    group = subject.group()
    try:
        subject.driver.freeze(group.record, frozen=True)
    except NotSupportedError:
        return
    fail("freeze is not claimed, but did not raise NotSupportedError")


# --- kill --------------------------------------------------------------------------------------------------


@case("cgroup.kill.all")
def everything_is_killed(subject: Subject) -> None:
    """When kill returns no process of the group is left, however deaf; those of another group live on."""
    group, other = subject.group(), subject.group()
    children = [group.start(act) for act in (wait, wait_stubbornly, spin)]
    spared = other.start(wait)
    subject.driver.kill(group.request, group.record)
    expect_equal(subject.driver.pids(group.record), (), "pids after kill")
    expect_equal([child.status() for child in children], [-signal.SIGKILL] * len(children), "how they ended")
    expect_equal(subject.driver.pids(other.record), (spared.pid,), "pids of another group after kill")


@case("cgroup.kill.fork-bomb")
def a_fork_bomb_is_killed(subject: Subject) -> None:
    """Processes that fork as fast as they can, bounded by a limit of pids, are all killed."""
    group = subject.group()
    group.limit(Limits(pids=_BOMB_PIDS))
    group.start(fork_bomb)
    expect(soon(lambda: len(subject.driver.pids(group.record)) > _BOMB_PIDS // 2), "the bomb did not go off")
    subject.driver.kill(group.request, group.record)
    _expect_nobody(subject, group)


@case("cgroup.kill.frozen", needs=_FREEZE, claim="contract")
def a_frozen_group_is_killed(subject: Subject) -> None:
    """The processes of a frozen group are killed; it need not be thawed before."""
    group = subject.group()
    child = group.start(wait)
    subject.driver.freeze(group.record, frozen=True)
    subject.driver.kill(group.request, group.record)
    expect_equal(child.status(), -signal.SIGKILL, "how the process ended")
    expect_equal(subject.driver.pids(group.record), (), "pids after kill")


@case("cgroup.kill.nested")
def processes_in_nested_groups_are_killed(subject: Subject) -> None:
    """A process that went into a group of its own below the container's is killed with the others."""
    group = subject.group()
    directories = group.directories()
    child = group.start(wait)
    for directory in directories:
        os.makedirs(f"{directory}/guest/inner")
        with suppress(PlugengineError):  # a hierarchy that wants controllers, or processors, given on first
            filesystem.write(f"{directory}/guest/inner/cgroup.procs", str(child.pid))
    subject.driver.kill(group.request, group.record)
    expect_equal(child.status(), -signal.SIGKILL, "how the process ended")


def _expect_nobody(subject: Subject, group: Group) -> None:
    expect_equal(subject.driver.pids(group.record), (), "pids after kill")
    time.sleep(_STILL_S)
    expect_equal(subject.driver.pids(group.record), (), "pids a while after kill")


# --- accounting --------------------------------------------------------------------------------------------


@case("cgroup.stats.processor")
def processor_time_is_counted(subject: Subject) -> None:
    """The processor time of the group grows by what its processes used, and stays with it after their end."""
    group, idle = subject.group(), subject.group()
    before = group.stats().cpu_usage_ns
    if before is None:
        raise Unsuitable("the driver says that this host does not account for processor time")
    group.run(use_processor(0.2))
    used = (group.stats().cpu_usage_ns or 0) - before
    expect(150_000_000 < used < 1_500_000_000, f"0.2 s of processor time were used, {used / 1e9:.2f} s are counted")
    expect((idle.stats().cpu_usage_ns or 0) < 50_000_000, "processor time is counted in a group without processes")


@case("cgroup.stats.memory")
def memory_is_counted(subject: Subject) -> None:
    """Memory in use is counted while it is held, about as much as it is, and not after its end."""
    group = subject.group()
    empty = group.stats().memory_bytes
    if empty is None:
        raise Unsuitable("the driver says that this host does not account for memory")
    child = group.start(hold_memory(48 * MIB))
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    held = (group.stats().memory_bytes or 0) - empty
    expect(48 * MIB <= held < 96 * MIB, f"{48 * MIB} bytes are held, {held} are counted")
    subject.driver.kill(group.request, group.record)
    expect(soon(lambda: (group.stats().memory_bytes or 0) < 24 * MIB), "memory is counted that nobody holds any more")


@case("cgroup.stats.pids")
def processes_are_counted(subject: Subject) -> None:
    """The number of processes in the stats is that of the pids."""
    group = subject.group()
    expect(not group.stats().pids, f"{group.stats().pids} processes in an empty group")
    for number in (1, 2):
        group.start(wait)
        expect_equal(group.stats().pids, number, "processes in the stats")


@case("cgroup.caller.stays")
def the_caller_is_never_moved(subject: Subject) -> None:
    """No verb puts the calling process into another group."""
    before = own_groups()
    group = subject.group()
    group.limit(Limits(pids=20, memory_bytes=64 * MIB))
    group.run(use_processor(0.01))
    subject.driver.entry(group.record)
    group.stats()
    subject.driver.kill(group.request, group.record)
    subject.driver.remove(group.request, group.record)
    expect_equal(own_groups(), before, "groups of the caller")
