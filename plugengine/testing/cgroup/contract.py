"""Cgroup cases: make, enter, list, remove and collect groups."""

from __future__ import annotations

import os
from contextlib import suppress

from msgspec.structs import replace

from plugengine.cgroups import filesystem
from plugengine.errors import PlugengineError
from plugengine.kernel.mount import MS_PRIVATE, MS_RDONLY, MS_REC, mount
from plugengine.kernel.process import CLONE_NEWCGROUP, CLONE_NEWNS, unshare
from plugengine.model import CgroupRequest, HostPath, Limits, Record, Settings, decode, encode
from plugengine.mounts import perform
from plugengine.testing.cases import case, expect, expect_equal, fail, soon
from plugengine.testing.cgroup.group import Group
from plugengine.testing.cgroup.processes import MIB, wait
from plugengine.testing.cgroup.subject import Subject
from plugengine.testing.children import OtherProcess, all_at_once, count_steps, in_child, kill_at_step, spread

_MOST = 24  # steps at which the engine is killed
_TOGETHER = 6
_TIMES = 8
_LIMITS = Limits(memory_bytes=64 * MIB, memory_swap_bytes=64 * MIB, cpu_shares=512, pids=50, cpu_quota_us=50_000)


def own_groups() -> list[str]:
    """Return the groups this process is in, a line for each hierarchy."""
    return filesystem.read("/proc/self/cgroup").splitlines()


@case("cgroup.probe.pure")
def probing_is_pure(subject: Subject) -> None:
    """Asking whether the driver can run here changes nothing, and the answer stays the same."""
    for _ in range(2):
        expect_equal(subject.driver.probe(subject.host), (), "reasons why this host cannot run the driver")
    expect_equal(subject.present(), [], "groups after probing")


@case("cgroup.settings.pure")
def settings_are_pure(subject: Subject) -> None:
    """The settings for the same limits are the same every time, need no group, and hold nothing until applied."""
    request = subject.request()
    first = subject.driver.settings(_LIMITS, request)
    expect_equal(subject.present(), [], "groups after asking for settings")
    group = subject.group(request.container_id)
    expect_equal(subject.driver.settings(_LIMITS, request), first, "the settings asked for again")
    expect_equal(decode(Settings, encode(first)), first, "the settings through JSON")
    expect_equal(group.stats().memory_limit_bytes, None, "memory limit before the settings are applied")


@case("cgroup.create.twice")
def creating_twice_is_creating_once(subject: Subject) -> None:
    """A group made twice is made once: the same record, the same groups."""
    group = subject.group()
    before = subject.present()
    expect(before, "create made no group below the parent given")
    expect_equal(subject.driver.create(group.request), group.record, "the record of the second create")
    expect_equal(subject.present(), before, "groups after the second create")


@case("cgroup.create.climbing")
def a_parent_that_climbs_is_refused(subject: Subject) -> None:
    """A parent with ".." in it is refused with an error of the engine."""
    for parent in (f"{subject.parent}/../{subject.parent}-elsewhere", ".."):
        try:
            group = subject.group(parent=parent)
        except PlugengineError:
            continue
        group.end()
        fail(f"the parent {parent!r} was accepted")


@case("cgroup.create.nested-parent")
def parents_are_made_and_removed(subject: Subject) -> None:
    """Missing parents of any depth are made, and go with the last group below them."""
    one = subject.group(parent=f"{subject.parent}/a/b")
    two = subject.group(parent=f"{subject.parent}/a/c")
    subject.driver.remove(one.request, one.record)
    expect(any(directory.endswith(two.id) for directory in subject.present()), "the other group was removed too")
    subject.driver.remove(two.request, two.record)
    expect_equal(subject.present(), [], "groups after the last was removed")


@case("cgroup.remove.twice")
def removing_twice_is_removing_once(subject: Subject) -> None:
    """Removing a group that is removed already succeeds, and nothing is left in any hierarchy."""
    group = subject.group()
    for _ in range(2):
        subject.driver.remove(group.request, group.record)
        expect_equal(subject.present(), [], "groups after remove")


@case("cgroup.remove.descendants")
def descendants_are_removed_too(subject: Subject) -> None:
    """Groups the guest made below its own, nested and with limits of their own, are removed with it."""
    group = subject.group()
    for directory in group.directories():
        os.makedirs(f"{directory}/guest/inner")
    subject.driver.kill(group.request, group.record)
    subject.driver.remove(group.request, group.record)
    expect_equal(subject.present(), [], "groups after remove")


@case("cgroup.remove.gone")
def a_group_that_is_gone_is_empty(subject: Subject) -> None:
    """Of a group that is gone there are no pids and nothing to kill; its accounting is empty, not an error."""
    group = subject.group()
    subject.driver.remove(group.request, group.record)
    expect_equal(subject.driver.pids(group.record), (), "pids of a group that is gone")
    subject.driver.kill(group.request, group.record)
    expect(not group.stats().memory_bytes, "memory in use by a group that is gone")


@case("cgroup.record.enough")
def records_are_enough_for_a_stranger(subject: Subject) -> None:
    """A process that only has the request and the record, as JSON, lists, kills and removes the group."""

    def unmake(told: dict[str, object]) -> list[int]:
        request = decode(CgroupRequest, told["request"])
        record: Record = told["record"]  # type: ignore[assignment]
        found = list(subject.driver.pids(record))
        subject.driver.kill(request, record)
        subject.driver.remove(request, record)
        return found

    with OtherProcess(unmake) as stranger:
        group = subject.group()
        pid = group.start(wait).pid
        told = {"request": encode(group.request), "record": encode(group.record)}
        expect_equal(stranger.call(told), [pid], "pids another process saw")
    expect_equal(subject.present(), [], "groups after another process removed it")


@case("cgroup.remove.without-record")
def the_id_is_enough_to_remove_it(subject: Subject) -> None:
    """Without a record, as after a create that was interrupted, kill and remove find the group by the request."""
    group = subject.group()
    group.start(wait)
    subject.driver.kill(group.request, None)
    expect_equal(subject.driver.pids(group.record), (), "pids after kill without the record")
    subject.driver.remove(group.request, None)
    expect_equal(subject.present(), [], "groups after remove without the record")
    never = subject.request()
    subject.driver.kill(never, None)
    subject.driver.remove(never, None)
    expect_equal(subject.present(), [], "groups after a group that never was was removed")


@case("cgroup.enter.alike")
def all_who_enter_are_in_the_same_groups(subject: Subject) -> None:
    """Every process that enters is in all the groups that were made; the caller is in none of them."""
    outside = own_groups()
    group = subject.group()
    made = [directory for directory in subject.present() if directory.endswith(f"/{group.id}")]
    entered = group.ask(own_groups)
    expect_equal(group.ask(own_groups), entered, "groups of the second process that entered, and of the first")
    expect_equal(sorted(group.directories()), sorted(made), "groups a process has entered, and those that were made")
    expect(entered != outside, "the process that entered is still in the groups of the caller")
    expect_equal(own_groups(), outside, "groups of the caller")


@case("cgroup.enter.many")
def entering_is_for_whole_families(subject: Subject) -> None:
    """Children of a process in the group are in it as well."""
    group = subject.group()

    def ask_child() -> bool:
        return in_child(own_groups) == own_groups()

    expect(group.ask(ask_child), "a child is in another group than its parent")


@case("cgroup.pids.exact")
def the_pids_are_those_of_the_group(subject: Subject) -> None:
    """The pids are those of the processes in the group, also in groups the guest made below it, and no others."""
    group, other = subject.group(), subject.group()
    expect_equal(subject.driver.pids(group.record), (), "pids of an empty group")
    directories = group.directories()
    first, second = group.start(wait), group.start(wait)
    other.start(wait)
    for directory in directories:
        os.mkdir(f"{directory}/guest")
        with suppress(PlugengineError):  # version 2: not out of a group that gives controllers away
            filesystem.write(f"{directory}/guest/cgroup.procs", str(second.pid))
    expect_equal(set(subject.driver.pids(group.record)), {first.pid, second.pid}, "pids of the group")
    first.kill()
    first.status()
    expect(soon(lambda: subject.driver.pids(group.record) == (second.pid,)), "a process that ended is still listed")


@case("cgroup.gc.unknown")
def gc_removes_what_no_container_owns(subject: Subject) -> None:
    """Groups of this engine that belong to no valid container are killed and removed, and named; valid ones stay."""
    kept, lost = subject.group(), subject.group()
    running, child = kept.start(wait), lost.start(wait)
    lines = subject.driver.gc(subject.host, subject.parent, frozenset({kept.id}))
    expect(lines, "gc removed a group, but returned no line about it")
    child_status = child.status()
    expect(child_status < 0, f"the process of the removed group ended with {child_status}, it was not killed")
    expect(not any(lost.id in directory for directory in subject.present()), "the group of no container is still there")
    expect_equal(subject.driver.pids(kept.record), (running.pid,), "pids of the valid group after gc")
    expect_equal(subject.driver.gc(subject.host, subject.parent, frozenset({kept.id})), (), "lines of a second gc")


@case("cgroup.gc.others")
def gc_leaves_what_is_not_its_own(subject: Subject) -> None:
    """Groups of another engine, and those nobody made through the driver, are left alone."""
    theirs = subject.group(owner="/somewhere/else")
    running = theirs.start(wait)
    strange = [f"{os.path.dirname(directory)}/made-by-hand" for directory in theirs.directories()]
    for directory in strange:
        os.mkdir(directory)
    try:
        expect_equal(subject.driver.gc(subject.host, subject.parent, frozenset()), (), "lines of gc")
        expect_equal(subject.driver.pids(theirs.record), (running.pid,), "pids of another engine's group after gc")
        gone = [directory for directory in strange if not os.path.isdir(directory)]
        expect_equal(gone, [], "groups gc removed though the driver never made them")
    finally:
        for directory in strange:
            with suppress(FileNotFoundError):
                os.rmdir(directory)


@case("cgroup.gc.nothing")
def gc_of_nothing_says_nothing(subject: Subject) -> None:
    """Below a parent that is not there, gc finds nothing."""
    expect_equal(subject.driver.gc(subject.host, subject.parent, frozenset()), (), "lines of gc")


@case("cgroup.crowd.parallel")
def many_come_and_go_at_once(subject: Subject) -> None:
    """Processes that make and remove groups below one parent at the same time all succeed, and leave nothing."""

    def come_and_go() -> None:
        for number in range(_TIMES):
            request = subject.request(f"{os.getpid()}-{number}")
            subject.driver.remove(request, subject.driver.create(request))

    all_at_once([come_and_go for _ in range(_TOGETHER)])
    expect_equal(subject.present(), [], "groups after all were removed")


@case("cgroup.crash.create", deadline_s=40)
def a_create_killed_anywhere_is_removed_or_collected(subject: Subject) -> None:
    """Killed at any step of create, a remove without a record or gc, or another create and remove, leave nothing."""
    request = subject.request("crashed")
    total = count_steps(lambda: subject.driver.create(request))
    subject.driver.remove(request, subject.driver.create(request))
    for step in spread(total, _MOST):
        kill_at_step(lambda: subject.driver.create(request), step)
        if step % 3 == 0:
            subject.driver.gc(subject.host, subject.parent, frozenset())
        # None also for what was killed before it was marked as ours, which gc leaves.
        subject.driver.remove(request, subject.driver.create(request) if step % 3 == 1 else None)
        subject.expect_no_group(f"after create was killed at step {step} of {total}")


@case("cgroup.crash.remove", deadline_s=40)
def a_remove_killed_anywhere_is_ended_by_the_next(subject: Subject) -> None:
    """Killed at any step of remove, the next remove ends it."""
    request = subject.request("crashed")
    record = subject.driver.create(request)
    total = count_steps(lambda: subject.driver.remove(request, record))
    for step in spread(total, _MOST):
        record = subject.driver.create(request)
        kill_at_step(lambda made=record: subject.driver.remove(request, made), step)  # type: ignore[misc]
        subject.driver.remove(request, record)
        subject.expect_no_group(f"after remove was killed at step {step} of {total}")


@case("cgroup.mounts.own-group")
def the_guest_sees_its_own_group_only(subject: Subject) -> None:
    """In its /sys/fs/cgroup the guest sees its own group as the root, read-only, and no other group."""
    group, other = subject.group(), subject.group()
    target = f"{subject.scratch}/cgroup"
    os.mkdir(target)
    before = own_groups()

    def look() -> list[str]:
        unshare(CLONE_NEWCGROUP | CLONE_NEWNS)
        _mount_all(subject, group, target)
        return [*_outside_of_root(before), *_writable_or_strange(target, (group.id, other.id, subject.parent))]

    expect_equal(group.ask(look), [], "wrong in the guest's /sys/fs/cgroup")


def _mount_all(subject: Subject, group: Group, target: str) -> None:
    mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    for each in subject.driver.mounts(group.request, HostPath(target)):
        expect(each.target == target or each.target.startswith(f"{target}/"), f"{each.target} is not below {target}")
        # The engine, too, makes a mount point in a directory before it makes that read-only.
        flags = each.flags & ~MS_RDONLY if each.fstype == "tmpfs" else each.flags
        os.makedirs(each.target, exist_ok=True)
        perform(replace(each, flags=flags))


def _outside_of_root(before: list[str]) -> list[str]:
    """Return the hierarchies the process was moved in where it is not in the root of its cgroup namespace."""
    return [line for line in own_groups() if line not in before and not line.endswith(":/")]


def _writable_or_strange(target: str, names: tuple[str, ...]) -> list[str]:
    wrong = []
    seen = 0
    for directory, children, files in os.walk(target):
        wrong += [f"{directory}/{child} is shown" for child in children if child in names]
        if "cgroup.procs" in files:
            seen += 1
            try:
                os.mkdir(f"{directory}/made-by-the-guest")
            except OSError:
                continue
            os.rmdir(f"{directory}/made-by-the-guest")
            wrong.append(f"{directory} can be written")
    return wrong if seen else [f"no group is shown below {target}"]
