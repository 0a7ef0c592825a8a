"""Namespace cases: what is private is isolated and what is shared is shared, as seen from inside."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from plugengine.kernel.mount import mount, umount2
from plugengine.kernel.process import CLONE_NEWIPC, CLONE_NEWUTS, unshare
from plugengine.kernel.uts import sethostname
from plugengine.model import Capability, IdRange, NamespacePlan, UserMap
from plugengine.testing.cases import case, expect, expect_equal, soon
from plugengine.testing.children import in_child
from plugengine.testing.namespace.subject import FIRST_HOST_ID, MAP, Subject, identities

_T = TypeVar("_T")

_NAME = "plugengine-kit-guest"
_OFFSET_S = 100_000
_USER = [Capability.USER_NAMESPACE]
_TIME = [Capability.TIME_NAMESPACE]


# --- pid ---------------------------------------------------------------------------------------------------


@case("namespace.pid.private")
def the_first_process_is_number_one(subject: Subject) -> None:
    """With a pid namespace of its own the first process is number 1, sees itself only, and can signal nobody else."""
    outside = os.getpid()

    def look() -> list[object]:
        return [os.getpid(), os.getppid(), _processes(subject), _can_signal(outside)]

    expect_equal(subject.ask(look, subject.plan()), [1, 0, [1], False], "own pid, parent, pids seen, outside signalled")


@case("namespace.pid.host")
def the_pid_namespace_is_shared(subject: Subject) -> None:
    """With the host's pid namespace the process has the pid the host knows it by, and sees the others."""
    guest = subject.start(os.getpid, subject.plan({"pid": "host"}))
    pid = guest.pid
    expect_equal(guest.child.result(), pid, "own pid")
    seen = subject.ask(lambda: _processes(subject), subject.plan({"pid": "host"}))
    expect(os.getpid() in seen, "the processes of the host are not seen")


@case("namespace.pid.ends-with-the-first")
def all_end_with_the_first(subject: Subject) -> None:
    """When the first process of a pid namespace ends, so do its descendants."""
    marker = f"{subject.scratch}/alive"

    def leave_a_child() -> None:
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.3)
            os.mkdir(marker)
            os._exit(0)

    subject.ask(leave_a_child, subject.plan())
    time.sleep(0.5)
    expect(not os.path.exists(marker), "a descendant outlived the first process of its pid namespace")


def _processes(subject: Subject) -> list[int]:
    """Mount a proc of this pid namespace and list it."""
    target = f"{subject.scratch}/proc-{os.urandom(4).hex()}"
    os.mkdir(target)
    mount("proc", target, "proc", 0, None)
    try:
        return sorted(int(name) for name in os.listdir(target) if name.isdigit())
    finally:
        umount2(target)


def _can_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- net ---------------------------------------------------------------------------------------------------


@case("namespace.net.private")
def there_is_nothing_but_loopback(subject: Subject) -> None:
    """A network namespace of its own has its loopback interface, down, and nothing else."""
    names, reached = subject.ask(_network, subject.plan())
    expect_equal(names, ["lo"], "interfaces seen")
    expect(not reached, "127.0.0.1 is reached, though nobody has brought loopback up")


@case("namespace.net.host")
def the_network_is_shared(subject: Subject) -> None:
    """With the host's network namespace the interfaces are the host's."""
    seen, _ = subject.ask(_network, subject.plan({"net": "host"}))
    expect_equal(seen, sorted(name for _, name in socket.if_nameindex()), "interfaces seen")


def _network() -> list[object]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("127.0.0.1", 9))
            reached = True
        except OSError:
            reached = False
    return [sorted(name for _, name in socket.if_nameindex()), reached]


# --- mnt ---------------------------------------------------------------------------------------------------


@case("namespace.mnt.private")
def mounts_stay_inside(subject: Subject) -> None:
    """What is mounted inside is not seen outside, and what is mounted outside later is not seen inside."""
    inner, outer = f"{subject.scratch}/inner", f"{subject.scratch}/outer"
    os.mkdir(inner)
    os.mkdir(outer)

    def mount_and_look() -> list[bool]:
        mount("kit", inner, "tmpfs", 0, None)
        os.mkdir(f"{inner}/made-inside")
        soon(lambda: os.path.exists(f"{subject.scratch}/mounted-outside"))
        return [os.path.exists(f"{inner}/made-inside"), os.path.exists(f"{outer}/made-outside")]

    guest = subject.start(mount_and_look, subject.plan())
    mount("kit", outer, "tmpfs", 0, None)
    try:
        os.mkdir(f"{outer}/made-outside")
        os.mkdir(f"{subject.scratch}/mounted-outside")
        expect_equal(guest.child.result(), [True, False], "seen inside: own mount, mount made outside")
        expect_equal(os.listdir(inner), [], "seen outside of what was mounted inside")
    finally:
        umount2(outer)


# --- uts ---------------------------------------------------------------------------------------------------


@case("namespace.uts.private")
def the_host_name_is_its_own(subject: Subject) -> None:
    """A host name set inside is not seen outside."""

    def rename() -> str:
        sethostname(_NAME.encode())
        return os.uname().nodename

    def look() -> list[str]:
        return [subject.ask(rename, subject.plan()), os.uname().nodename]

    before = os.uname().nodename
    expect_equal(
        _on_a_host_of_its_own(look), [_NAME, before], "the name inside, and outside after it was changed inside"
    )


def _on_a_host_of_its_own(act: Callable[[], _T]) -> _T:
    """Act in a process whose uts and ipc namespaces play the host's: a wrong driver must not touch the machine's."""

    def run() -> _T:
        unshare(CLONE_NEWUTS | CLONE_NEWIPC)
        return act()

    return in_child(run)


@case("namespace.uts.host")
def the_host_name_is_shared(subject: Subject) -> None:
    """With the host's uts namespace the name is the host's."""
    other = subject.plan({"uts": "host"})
    expect_equal(subject.ask(lambda: os.uname().nodename, other), os.uname().nodename, "the name inside")
    expect_equal(subject.ask(identities, other)["uts"], identities()["uts"], "uts namespace")


# --- ipc ---------------------------------------------------------------------------------------------------


@case("namespace.ipc.private")
def message_queues_are_its_own(subject: Subject) -> None:
    """POSIX message queues and System V objects of the host are not seen, nor are its own seen by the host."""
    seen = _on_a_host_of_its_own(lambda: _queues_seen(subject, subject.plan()))
    expect_equal(seen, [["guest"], ["host"], []], "queues seen inside, outside, and System V objects inside")


@case("namespace.ipc.host")
def message_queues_are_shared(subject: Subject) -> None:
    """With the host's ipc namespace its message queues are seen, and it sees the guest's."""
    seen = _on_a_host_of_its_own(lambda: _queues_seen(subject, subject.plan({"ipc": "host"})))
    both = ["guest", "host"]
    expect_equal(seen, [both, both, []], "queues seen inside, outside, and System V objects inside")


def _queues_seen(subject: Subject, plan: NamespacePlan) -> list[list[str]]:
    """Make a queue outside and one inside; return the queues seen in both places, and System V objects inside."""

    def look() -> list[list[str]]:
        with _queues(subject) as own:
            os.close(os.open(f"{own}/guest", os.O_RDWR | os.O_CREAT, 0o600))
            return [sorted(os.listdir(own)), _system_v()]

    with _queues(subject) as ours:
        os.close(os.open(f"{ours}/host", os.O_RDWR | os.O_CREAT, 0o600))
        inside, system_v = subject.ask(look, plan)
        return [inside, sorted(os.listdir(ours)), system_v]


@contextmanager
def _queues(subject: Subject) -> Iterator[str]:
    """Lend the directory of the message queues of this ipc namespace; see mq_overview(7)."""
    target = f"{subject.scratch}/mqueue-{os.urandom(4).hex()}"
    os.mkdir(target)
    mount("mqueue", target, "mqueue", 0, None)
    try:
        yield target
    finally:
        umount2(target)


def _system_v() -> list[str]:
    """Return the lines about System V objects of this ipc namespace; see sysvipc(7)."""
    found: list[str] = []
    for kind in ("msg", "sem", "shm"):
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as stream:
            found += stream.read().splitlines()[1:]
    return found


# --- cgroup ------------------------------------------------------------------------------------------------


@case("namespace.cgroup.private")
def its_group_is_the_root(subject: Subject) -> None:
    """With a cgroup namespace of its own a process sees its group as the root of every hierarchy."""
    seen = subject.ask(_groups, subject.plan())
    expect_equal([line for line in seen if not line.endswith(":/")], [], "groups seen that are not the root")


@case("namespace.cgroup.host")
def the_groups_are_the_hosts(subject: Subject) -> None:
    """With the host's cgroup namespace a process sees its groups as the host does."""
    expect_equal(subject.ask(_groups, subject.plan({"cgroup": "host"})), _groups(), "groups seen")


def _groups() -> list[str]:
    with open("/proc/self/cgroup", encoding="utf-8") as stream:
        return stream.read().splitlines()


# --- user --------------------------------------------------------------------------------------------------


@case("namespace.user.map", needs=_USER)
def ids_are_mapped(subject: Subject) -> None:
    """Root inside is the first host id of the map outside, for users and for groups; the map is the one asked for."""
    directory = f"{subject.scratch}/open"
    os.mkdir(directory)
    os.chmod(directory, 0o777)  # noqa: S103 - for an id that is nobody's here
    os.chmod(subject.scratch, 0o711)  # noqa: S103

    def look() -> list[object]:
        os.mkdir(f"{directory}/made-inside")
        status = os.stat(f"{directory}/made-inside")
        return [os.getuid(), os.getgid(), status.st_uid, status.st_gid, _map("uid_map"), _map("gid_map")]

    seen = subject.ask(look, subject.plan(user_map=MAP))
    maps = [[[0, FIRST_HOST_ID, 1000]], [[0, FIRST_HOST_ID + 5000, 2000]]]
    expect_equal(seen, [0, 0, 0, 0, *maps], "inside: ids, owner of a file made there, maps")
    status = os.stat(f"{directory}/made-inside")
    expect_equal((status.st_uid, status.st_gid), (FIRST_HOST_ID, FIRST_HOST_ID + 5000), "owner of it outside")


@case("namespace.user.ranges", needs=_USER)
def several_ranges_are_mapped(subject: Subject) -> None:
    """A map of several ranges is the one the kernel has."""
    ranges = (IdRange(guest=0, host=500_000, size=1), IdRange(guest=1000, host=600_000, size=5))
    plan = subject.plan(user_map=UserMap(uids=ranges, gids=ranges))
    wanted = [[0, 500_000, 1], [1000, 600_000, 5]]
    expect_equal(subject.ask(lambda: [_map("uid_map"), _map("gid_map")], plan), [wanted, wanted], "maps inside")


@case("namespace.user.owns-the-others", needs=_USER)
def its_powers_end_at_its_namespaces(subject: Subject) -> None:
    """With a user namespace root may do as it likes in the container's namespaces, and nothing in the host's."""

    def try_to_rename() -> int:
        try:
            sethostname(_NAME.encode())
        except OSError as exc:
            return exc.errno or -1
        return 0

    def look() -> list[object]:
        own = subject.ask(try_to_rename, subject.plan(user_map=MAP))
        hosts = subject.ask(try_to_rename, subject.plan({"uts": "host"}, user_map=MAP))
        return [own, hosts, os.uname().nodename]

    before = os.uname().nodename
    wanted = [0, errno.EPERM, before]
    expect_equal(_on_a_host_of_its_own(look), wanted, "errno of sethostname in its own and in the host's, host's name")


@case("namespace.user.host")
def without_a_map_ids_are_the_hosts(subject: Subject) -> None:
    """Without a map the user namespace is the host's."""
    expect_equal(subject.ask(lambda: _map("uid_map"), subject.plan()), _map("uid_map"), "uid map inside")
    expect_equal(
        subject.ask(identities, subject.plan({"user": "host"}))["user"], identities()["user"], "user namespace"
    )


def _map(name: str) -> list[list[int]]:
    # As the first user namespace sees it, whatever namespace /proc was mounted in.
    with open(f"/proc/self/{name}", encoding="ascii") as stream:
        return [[int(word) for word in line.split()] for line in stream]


# --- time --------------------------------------------------------------------------------------------------


@case("namespace.time.private", needs=_TIME)
def the_clocks_are_its_own(subject: Subject) -> None:
    """A private time namespace is another than the host's; its clocks run on."""
    plan = subject.plan({"time": "private"})
    seen = subject.ask(identities, plan)
    expect(seen["time"] != identities()["time"], "the time namespace is the host's")
    expect(subject.ask(lambda: time.clock_gettime(time.CLOCK_BOOTTIME), plan) > 0, "the clock stands at 0")


@case("namespace.time.offset", needs=_TIME)
def the_clocks_have_the_offset_asked_for(subject: Subject) -> None:
    """A driver with an option `time_offset` moves the clocks since boot by so many seconds, inside only."""
    if not any(option.name == "time_offset" for option in subject.driver.info.options):
        return
    plan = subject.plan(options={"time_offset": str(_OFFSET_S)})
    before = _clocks()
    seen = subject.ask(_clocks, plan)
    for name, then, inside in zip(("monotonic", "boottime"), before, seen, strict=True):
        expect(0 <= inside - then - _OFFSET_S < 30, f"the {name} clock is {inside - then:.0f} s ahead, not {_OFFSET_S}")
    after = _clocks()
    expect(all(0 <= late - early < 30 for early, late in zip(before, after, strict=True)), "the caller's clocks jumped")


def _clocks() -> list[float]:
    return [time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)]


@case("namespace.time.host")
def the_clocks_are_the_hosts(subject: Subject) -> None:
    """Unless asked otherwise the time namespace is the host's."""
    guest = subject.start(signal.pause, subject.plan())
    expect_equal(identities(guest.pid).get("time"), identities().get("time"), "time namespace")
