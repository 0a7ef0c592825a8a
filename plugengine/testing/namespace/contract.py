"""Namespace cases: what is planned, what is refused, and that planning is pure."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from plugengine.errors import NotSupportedError, PlugengineError, UsageError
from plugengine.kernel.process import CLONE_NEWPID, CLONE_NEWUSER
from plugengine.model import Capability, IdRange, NamespacePlan, UserMap, decode, encode
from plugengine.testing.cases import case, expect, expect_equal, fail
from plugengine.testing.namespace.subject import KINDS, MAP, PRIVATE_BY_DEFAULT, Subject, identities

_NO_PID = 2**22 + 1  # above the highest pid_max there is, see proc_sys_kernel(5)


@case("namespace.probe.pure")
def probing_is_pure(subject: Subject) -> None:
    """Asking whether the driver can run here changes nothing, and the answer stays the same."""
    before = identities()
    for _ in range(2):
        expect_equal(subject.driver.probe(subject.host), (), "reasons why this host cannot run the driver")
    expect_equal(identities(), before, "namespaces of the caller after probing")


@case("namespace.plan.pure")
def planning_is_pure(subject: Subject) -> None:
    """The plan for the same request is the same every time, survives JSON, and changes nothing."""
    before = identities()
    for modes in ({}, dict.fromkeys(PRIVATE_BY_DEFAULT, "private"), {"net": "host", "pid": f"container:{os.getpid()}"}):
        request = subject.request(modes)
        first = subject.driver.plan(request)
        expect_equal(subject.driver.plan(request), first, f"the second plan for {modes}")
        expect_equal(decode(NamespacePlan, encode(first)), first, f"the plan for {modes} through JSON")
    expect_equal(identities(), before, "namespaces of the caller after planning")


@case("namespace.plan.default")
def what_is_not_said_is_private(subject: Subject) -> None:
    """Without a mode, pid, net, mnt, uts, ipc and cgroup namespaces are the container's own; user and time are not."""
    seen = subject.ask(identities, subject.plan())
    ours = identities()
    shared = {kind for kind in ours if seen[kind] == ours[kind]}
    expect_equal(shared, {"user", "time"} & set(ours), "namespaces shared with the host by default")


@case("namespace.plan.two-guests")
def containers_share_nothing_with_each_other(subject: Subject) -> None:
    """Two containers of the same plan have namespaces of their own, each."""
    plan = subject.plan()
    one = subject.start(signal.pause, plan)
    two = subject.ask(identities, plan)
    first = identities(one.pid)
    expect_equal({kind for kind in PRIVATE_BY_DEFAULT if first[kind] == two[kind] and kind != "cgroup"}, set(),
                 "namespaces two containers share")  # fmt: skip


@case("namespace.refuse.nonsense")
def nonsense_is_refused(subject: Subject) -> None:
    """A kind or a mode that does not exist is refused with a UsageError that names it."""
    for modes, word in (
        ({"nonsense": "private"}, "nonsense"),
        ({"net": "nonsense"}, "nonsense"),
        ({"uts": ""}, "uts"),
        ({"ipc": "container:"}, "ipc"),
        ({"pid": "container:zero"}, "zero"),
        ({"net": "container:../1"}, "../1"),
    ):
        _expect_refused(subject, modes, word)


@case("namespace.refuse.shared-mounts")
def the_mount_namespace_is_never_shared(subject: Subject) -> None:
    """A shared mount namespace would let a container mount over the host: it is refused, or it is not what one gets."""
    ours = identities()["mnt"]
    for mode in ("host", f"container:{os.getpid()}"):
        try:
            plan = subject.plan({"mnt": mode})
        except PlugengineError:
            continue
        expect(subject.ask(identities, plan)["mnt"] != ours, f"mode {mode} of mnt was accepted, and shares the host's")


@case("namespace.refuse.map-without-namespace", needs=[Capability.USER_NAMESPACE])
def a_map_needs_a_namespace(subject: Subject) -> None:
    """A map of user ids with the host's user namespace contradicts itself, and so does a private one without a map."""
    _expect_refused(subject, {"user": "host"}, "user", user_map=MAP)
    _expect_refused(subject, {"user": "private"}, "user")


@case("namespace.refuse.bad-map", needs=[Capability.USER_NAMESPACE])
def a_map_the_kernel_would_refuse_is_refused(subject: Subject) -> None:
    """Maps that overlap, are empty or too long are refused before the kernel does so with a bare EINVAL."""
    good = MAP.gids
    for uids in (
        (),
        (IdRange(guest=0, host=400_000, size=10), IdRange(guest=5, host=500_000, size=10)),
        (IdRange(guest=0, host=400_000, size=10), IdRange(guest=10, host=400_005, size=10)),
        (IdRange(guest=0, host=2**32 - 5, size=10),),
        (IdRange(guest=0, host=400_000, size=0),),
    ):
        _expect_refused(subject, {}, "map", user_map=UserMap(uids=uids, gids=good))


def _expect_refused(subject: Subject, modes: Mapping[str, str], word: str, *, user_map: UserMap | None = None) -> None:
    try:
        plan = subject.plan(modes, user_map=user_map)
    except UsageError as exc:
        expect(word in exc.message or word in (exc.hint or ""), f"the message does not name {word!r}: {exc.message}")
        expect(len(exc.message.split()) > 2, f"the message is not a sentence: {exc.message}")
    else:
        fail(f"{dict(modes)}, {user_map and user_map.uids} was accepted: {plan}")


@case("namespace.user.not-claimed", refused=Capability.USER_NAMESPACE)
def user_namespaces_are_refused_by_who_has_none(subject: Subject) -> None:
    """A driver that does not claim USER_NAMESPACE refuses a map of user ids with NotSupportedError."""
    try:
        plan = subject.plan(user_map=MAP)
    except NotSupportedError:
        return
    fail(f"a map of user ids was accepted: {plan}")


@case("namespace.time.not-claimed", refused=Capability.TIME_NAMESPACE)
def time_namespaces_are_refused_by_who_has_none(subject: Subject) -> None:
    """A driver that does not claim TIME_NAMESPACE refuses a time namespace with NotSupportedError."""
    try:
        plan = subject.plan({"time": "private"})
    except NotSupportedError:
        return
    fail(f"a time namespace was accepted: {plan}")


@case("namespace.join.same")
def a_container_joins_another(subject: Subject) -> None:
    """With container:PID a container is in the very namespaces of that process, and in its own for the rest."""
    other = subject.start(signal.pause, subject.plan())
    theirs, ours = identities(other.pid), identities()
    for kind in ("pid", "net", "uts", "ipc"):
        seen = subject.ask(identities, subject.plan({kind: f"container:{other.pid}"}))
        expect_equal(seen[kind], theirs[kind], f"{kind} namespace joined")
        for rest in set(PRIVATE_BY_DEFAULT) - {kind, "cgroup"}:
            expect(seen[rest] not in (theirs[rest], ours[rest]), f"joining {kind}, the {rest} namespace is shared, too")
    expect_equal(identities(), ours, "namespaces of the caller")


@case("namespace.join.all")
def a_container_joins_all_there_is_to_join(subject: Subject) -> None:
    """Joined all at once they are all the other container's; the mount namespace stays its own."""
    other = subject.start(signal.pause, subject.plan())
    theirs = identities(other.pid)
    joinable = ("pid", "net", "uts", "ipc")
    seen = subject.ask(identities, subject.plan(dict.fromkeys(joinable, f"container:{other.pid}")))
    expect_equal(
        {kind: seen[kind] for kind in joinable}, {kind: theirs[kind] for kind in joinable}, "namespaces joined"
    )
    expect(seen["mnt"] != theirs["mnt"], "the mount namespace is the other container's, too")


@case("namespace.join.gone")
def a_container_that_is_gone_cannot_be_joined(subject: Subject) -> None:
    """Joining a process that does not exist fails, at the latest when the plan is carried out."""
    try:
        plan = subject.plan({"net": f"container:{_NO_PID}"})
        seen = subject.ask(identities, plan)
    except PlugengineError:
        return
    fail(f"process {_NO_PID} does not exist, but was joined: {seen['net']}")


@case("namespace.plan.flags")
def the_flags_are_those_of_the_modes(subject: Subject) -> None:
    """A plan makes a namespace of a kind only if it is private, and a user namespace only with a map."""
    for kind in ("pid", "net", "uts", "ipc", "cgroup"):
        seen = subject.ask(identities, subject.plan({kind: "host"}))
        ours = identities()
        shared = {name for name in KINDS if name in ours and seen[name] == ours[name]}
        expect_equal(shared, {kind, *({"user", "time"} & set(ours))}, f"shared with the host when {kind} is")
    plan = subject.plan({"pid": "host"})
    expect(
        not plan.clone_flags & (CLONE_NEWPID | CLONE_NEWUSER), f"flags {plan.clone_flags:#x} of a plan with pid host"
    )
