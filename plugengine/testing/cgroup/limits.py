"""Cgroup cases: every limit, proved by a process that runs into it; a limit not named as unsupported must hold."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from typing import Final

from plugengine.model import Capability, DeviceRule, Limits
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.cgroup.group import Group
from plugengine.testing.cgroup.processes import (
    MIB,
    fork_until_refused,
    processor_time_s,
    spin,
    take_memory,
)
from plugengine.testing.cgroup.subject import Subject

# So little that even on a busy machine two processes would use more without it.
_PERIOD_US = 100_000
_QUOTA_US = 5_000
_WATCH_S = 1.2
# The quota is charged in slices of 5 ms (sched_cfs_bandwidth_slice_us) for each processor.
_TOLERANCE = 2.0
_PIDS = 10

_NULL = (1, 3)
_ZERO = (1, 5)
_FUSE = (10, 229)

# One limit at a time, with the flag that sets it: whoever does not hold it must say so.
EACH_LIMIT: Final[dict[str, Limits]] = {
    "--memory": Limits(memory_bytes=64 * MIB),
    "--memory-swap": Limits(memory_bytes=64 * MIB, memory_swap_bytes=96 * MIB),
    "--memory-reservation": Limits(memory_reservation_bytes=16 * MIB),
    "--cpus": Limits(cpu_quota_us=50_000),
    "--cpu-shares": Limits(cpu_shares=512),
    "--cpuset-cpus": Limits(cpuset_cpus="0"),
    "--cpuset-mems": Limits(cpuset_mems="0"),
    "--pids-limit": Limits(pids=100),
    "--blkio-weight": Limits(blkio_weight=500),
}


@case("cgroup.settings.honest")
def no_limit_is_dropped_in_silence(subject: Subject) -> None:
    """Every limit asked for is either written, and then accepted by the kernel, or named as unsupported by its flag."""
    group = subject.group()
    for flag, limits in EACH_LIMIT.items():
        settings = subject.driver.settings(limits, group.request)
        named = [line for line in settings.unsupported if line.startswith(flag)]
        expect(settings.writes or named, f"{flag} is neither written nor named as unsupported")
        subject.driver.apply(group.record, settings, limits)


@case("cgroup.settings.none")
def no_limit_is_no_limit(subject: Subject) -> None:
    """Without limits nothing is named as unsupported, and a process in the group is not held back."""
    group = subject.group()
    group.limit(Limits())
    expect_equal(group.run(take_memory(48 * MIB)), 0, "exit code of a process that takes 48 MiB")
    expect_equal(group.ask(fork_until_refused(_PIDS)), _PIDS, "children")
    expect_equal(group.stats().memory_limit_bytes, None, "memory limit in the stats")


@case("cgroup.memory.killed")
def memory_is_limited(subject: Subject) -> None:
    """A process that takes more memory than its group may is killed, one that stays below is not."""
    group = subject.group()
    group.limit(Limits(memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB))
    expect_equal(group.run(take_memory(12 * MIB)), 0, "exit code of a process that took 12 of 32 MiB")
    status = group.run(take_memory(96 * MIB))
    expect_equal(status, -signal.SIGKILL, "the end of a process that took 96 of 32 MiB")


@case("cgroup.memory.oom-counted")
def oom_kills_are_counted(subject: Subject) -> None:
    """The stats count the processes that were killed for want of memory, and only those."""
    group = subject.group()
    group.limit(Limits(memory_bytes=32 * MIB, memory_swap_bytes=32 * MIB))
    group.run(take_memory(12 * MIB))
    expect_equal(group.stats().oom_kills, 0, "oom kills before one")
    for number in (1, 2):
        group.run(take_memory(96 * MIB))
        expect_equal(group.stats().oom_kills, number, f"oom kills after {number}")


@case("cgroup.memory.with-swap")
def memory_and_swap_are_limited_together(subject: Subject) -> None:
    """Swap does not let a process have more than memory and swap together."""
    group = subject.group()
    group.limit(Limits(memory_bytes=16 * MIB, memory_swap_bytes=48 * MIB))
    status = group.run(take_memory(128 * MIB))
    expect_equal(status, -signal.SIGKILL, "the end of a process that took 128 of 48 MiB")


@case("cgroup.memory.shared-by-all")
def the_processes_of_a_group_share_its_memory(subject: Subject) -> None:
    """Two processes that would each fit do not fit together."""
    group = subject.group()
    group.limit(Limits(memory_bytes=48 * MIB, memory_swap_bytes=48 * MIB))

    def stay() -> None:
        memory = bytearray(32 * MIB)
        memory[:: 1 << 12] = b"x" * len(memory[:: 1 << 12])
        time.sleep(_WATCH_S)

    children = [group.start(stay), group.start(stay)]
    expect(-signal.SIGKILL in [child.status() for child in children], "twice 32 MiB fitted into 48 MiB")


@case("cgroup.cpu.quota")
def the_processor_quota_holds(subject: Subject) -> None:
    """Two busy processes together use no more of the processors than their group's quota."""
    group = subject.group()
    group.limit(Limits(cpu_quota_us=_QUOTA_US, cpu_period_us=_PERIOD_US))
    used, passed = _watch(group.start(spin).pid, group.start(spin).pid)
    share, quota = sum(used) / passed, _QUOTA_US / _PERIOD_US
    expect(share < quota * _TOLERANCE, f"of one processor {share:.3f} was used, the quota is {quota:.2f}")
    expect(share > quota / 10, f"of one processor {share:.3f} was used, though the quota is {quota:.2f}")


@case("cgroup.cpu.shares")
def processor_shares_are_relative(subject: Subject) -> None:
    """Of two groups that want the same processor, one with eight times the shares gets far more time."""
    small, large = subject.group(), subject.group()
    small.limit(Limits(cpu_shares=256))
    large.limit(Limits(cpu_shares=2048))
    processor = min(os.sched_getaffinity(0))

    def spin_there() -> None:
        os.sched_setaffinity(0, {processor})
        spin()

    (little, much), _ = _watch(small.start(spin_there).pid, large.start(spin_there).pid)
    expect(much > 3 * little, f"256 shares got {little:.2f} s of processor {processor}, 2048 shares {much:.2f} s")


def _watch(*pids: int) -> tuple[list[float], float]:
    """Return the processor time each process uses in a while, and how long that was."""
    time.sleep(_WATCH_S / 8)
    before, start = [processor_time_s(pid) for pid in pids], time.monotonic()
    time.sleep(_WATCH_S)
    after, end = [processor_time_s(pid) for pid in pids], time.monotonic()
    return [late - early for early, late in zip(before, after, strict=True)], end - start


@case("cgroup.cpuset.processors")
def the_choice_of_processors_holds(subject: Subject) -> None:
    """Processes run on the processors chosen only; without a choice on all that the caller has."""
    group, free = subject.group(), subject.group()
    free.limit(Limits())
    chosen = max(os.sched_getaffinity(0))
    group.limit(Limits(cpuset_cpus=str(chosen)))
    expect_equal(group.ask(_processors), [chosen], "processors of a process in the group")
    expect(chosen in _as_list(free.ask(_processors)), "a group without a choice lost a processor")

    def break_out() -> list[int]:
        try:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
        except OSError:
            pass
        return _processors()

    expect_equal(group.ask(break_out), [chosen], "processors of a process that asked for all")


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _as_list(value: object) -> list[int]:
    return list(value) if isinstance(value, list) else []


@case("cgroup.cpuset.memory-nodes")
def the_choice_of_memory_nodes_holds(subject: Subject) -> None:
    """Processes get memory of the nodes chosen only."""
    group = subject.group()
    group.limit(Limits(cpuset_mems="0"))
    expect_equal(group.ask(_memory_nodes), "0", "Mems_allowed_list of a process in the group")


def _memory_nodes() -> str:
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            name, _, value = line.partition(":")
            if name == "Mems_allowed_list":
                return value.strip()
    return ""


@case("cgroup.pids.limit")
def the_number_of_processes_is_limited(subject: Subject) -> None:
    """With a limit of 10 a process forks nine times; then fork(2) says EAGAIN."""
    group = subject.group()
    group.limit(Limits(pids=_PIDS))
    expect_equal(group.ask(fork_until_refused(5 * _PIDS)), _PIDS - 1, "children until fork was refused")


@case("cgroup.pids.unlimited")
def minus_one_is_no_limit(subject: Subject) -> None:
    """A limit of -1 takes an earlier limit away."""
    group = subject.group()
    group.limit(Limits(pids=_PIDS))
    group.limit(Limits(pids=-1))
    expect_equal(group.ask(fork_until_refused(3 * _PIDS)), 3 * _PIDS, "children")


@case("cgroup.devices.list", needs=[Capability.DEVICES])
def only_listed_devices_are_opened(subject: Subject) -> None:
    """Devices of the list are opened and made as it says; others are refused with EPERM."""
    group = subject.group()
    group.limit(
        Limits(
            devices=(
                DeviceRule(type="c", major=_NULL[0], minor=_NULL[1], access="rwm"),
                DeviceRule(type="c", major=_ZERO[0], minor=_ZERO[1], access="rm"),
            )
        )
    )
    _expect_opening(group, _NULL, os.O_RDWR, 0)
    _expect_opening(group, _ZERO, os.O_RDONLY, 0)
    _expect_opening(group, _ZERO, os.O_WRONLY, errno.EPERM)
    _expect_opening(group, _FUSE, os.O_RDWR, errno.EPERM)


@case("cgroup.devices.wildcard", needs=[Capability.DEVICES])
def a_rule_without_numbers_is_for_all(subject: Subject) -> None:
    """A rule without a minor number is for all of its major number, and for no other."""
    group = subject.group()
    group.limit(Limits(devices=(DeviceRule(type="c", major=_NULL[0], minor=None, access="rwm"),)))
    _expect_opening(group, _NULL, os.O_RDWR, 0)
    _expect_opening(group, _ZERO, os.O_RDWR, 0)
    _expect_opening(group, _FUSE, os.O_RDWR, errno.EPERM)


@case("cgroup.devices.none", needs=[Capability.DEVICES])
def an_empty_list_denies_every_device(subject: Subject) -> None:
    """With an empty list no device is opened; without a list each one is, also after a list was in force."""
    group = subject.group()
    group.limit(Limits(devices=()))
    _expect_opening(group, _NULL, os.O_RDWR, errno.EPERM)
    free = subject.group()
    free.limit(Limits(devices=None))
    _expect_opening(free, _NULL, os.O_RDWR, 0)


@case("cgroup.devices.update", needs=[Capability.DEVICES])
def the_list_is_replaced_while_it_runs(subject: Subject) -> None:
    """Another list takes the place of the first for processes that run already."""
    group = subject.group()
    group.limit(Limits(devices=(DeviceRule(type="c", major=_NULL[0], minor=_NULL[1], access="rwm"),)))
    _expect_opening(group, _ZERO, os.O_RDONLY, errno.EPERM)
    group.limit(Limits(devices=(DeviceRule(type="c", major=_ZERO[0], minor=_ZERO[1], access="rwm"),)))
    _expect_opening(group, _ZERO, os.O_RDONLY, 0)
    _expect_opening(group, _NULL, os.O_RDONLY, errno.EPERM)


def _expect_opening(group: Group, numbers: tuple[int, int], flags: int, wanted: int) -> None:
    """Make a node outside of the group, open it inside."""
    path = f"{group.subject.scratch}/device-{numbers[0]}-{numbers[1]}"
    if not os.path.exists(path):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*numbers))

    def attempt() -> int:
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
        except OSError as exc:
            return exc.errno or -1
        return 0

    found = group.ask(attempt)
    if found != wanted:
        words = "opened" if found == 0 else f"refused with {os.strerror(found) if isinstance(found, int) else found}"
        fail(f"device {numbers[0]}:{numbers[1]} was {words}, flags {flags:#o}")
