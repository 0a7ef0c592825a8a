"""Runtime cases: what the processes of a container are, see, and may do."""

from __future__ import annotations

import os
import resource
import signal

from plugengine.bundle import Rlimit
from plugengine.kernel import tty
from plugengine.kernel.process import CLONE_NEWNET, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS
from plugengine.model import Capability, GuestPath, HostPath, IdRange, UserMap
from plugengine.runtime.request import ResolvedMount
from plugengine.testing.cases import case, expect, expect_equal, soon
from plugengine.testing.runtime.subject import NAMESPACES, Subject, succeeded

_MAP = UserMap(uids=(IdRange(guest=0, host=400_000, size=65_536),), gids=(IdRange(guest=0, host=500_000, size=65_536),))
_STATUS = ("grep", "-E", "^(Cap|Sig(Blk|Ign)|NoNewPrivs|Seccomp:)", "/proc/self/status")
_PATIENCE_S = 5.0


def _fields(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


@case("runtime.process.identity")
def the_process_is_its_user(subject: Subject) -> None:
    """The command has the ids and groups of its user, and no others."""
    script = "id -u; id -g; id -G"
    expect_equal(succeeded(subject.sh(script)).split(), ["0", "0", "0"], "ids without a user")
    found = succeeded(subject.sh(script, user="alice", groups=("44",))).split("\n")
    expect_equal(found[:2], ["1000", "1001"], "ids of alice")
    expect_equal(sorted(found[2].split()), ["1001", "29", "44"], "groups of alice and one more")


@case("runtime.process.words")
def words_variables_and_directory_are_exact(subject: Subject) -> None:
    """Words, variables and the working directory arrive byte for byte; a missing directory is made."""
    odd = ("a b", "", "$HOME", "\u00fc\n", "-n")
    done = subject.run("/bin/sh", "-c", 'for each; do printf "%s|" "$each"; done', "sh", *odd)
    expect_equal(succeeded(done), "".join(f"{word}|" for word in odd), "words")
    done = subject.sh('printf "%s|%s" "$ODD" "$PWD"', env=("ODD= x=y \u00fc",), working_dir=GuestPath("/new/place"))
    expect_equal(succeeded(done), " x=y \u00fc|/new/place", "variable and directory")


@case("runtime.process.capabilities")
def capabilities_are_those_planned(subject: Subject) -> None:
    """The bounding set is what was planned, user 0 has it, others have none, and nothing is inherited."""
    root = _fields(succeeded(subject.run(*_STATUS, cap_drop=("ALL",), cap_add=("CHOWN", "KILL"))))
    wanted = f"{1 << 0 | 1 << 5:016x}"
    none = "0" * 16
    expect_equal(
        [root[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
        [none, wanted, wanted, wanted, none],
        "capabilities of user 0: inheritable, permitted, effective, bounding, ambient",
    )
    other = _fields(succeeded(subject.run(*_STATUS, user="alice")))
    expect_equal([other[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")], [none] * 4, "capabilities of alice")


@case("runtime.process.signals")
def signals_are_as_by_default(subject: Subject) -> None:
    """No signal is blocked or ignored in the command, or in one of exec."""
    container = subject.start("sleep", "100")
    for found in (succeeded(subject.run(*_STATUS)), succeeded(container.exec(*_STATUS))):
        fields = _fields(found)
        expect_equal((fields["SigBlk"], fields["SigIgn"]), ("0" * 16, "0" * 16), "signals blocked and ignored")


@case("runtime.process.seccomp")
def the_filter_is_there(subject: Subject) -> None:
    """The default filter refuses what it refuses; without one there is none; exec has the same."""
    container = subject.start("sleep", "100", seccomp="default")
    for found in (subject.run(*_STATUS, seccomp="default"), container.exec(*_STATUS)):
        expect_equal(_fields(succeeded(found))["Seccomp"], "2", "mode of seccomp")
    profile = (
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    refused = subject.sh("mkdir /tmp/made", seccomp=profile)
    expect(refused.code != 0 and "not permitted" in refused.stderr, f"mkdir, refused by a profile: {refused}")
    expect_equal(_fields(succeeded(subject.run(*_STATUS)))["Seccomp"], "0", "mode of seccomp without a filter")


@case("runtime.process.no-new-privileges")
def privileges_can_be_kept_from_growing(subject: Subject) -> None:
    """`no_new_privileges` is set in the command and in exec where it was asked for, and not elsewhere."""
    container = subject.start("sleep", "100", no_new_privileges=True)
    for found in (subject.run(*_STATUS, no_new_privileges=True), container.exec(*_STATUS)):
        expect_equal(_fields(succeeded(found))["NoNewPrivs"], "1", "no_new_privs where it was asked for")
    expect_equal(_fields(succeeded(subject.run(*_STATUS)))["NoNewPrivs"], "0", "no_new_privs")


@case("runtime.process.limits")
def limits_are_set(subject: Subject) -> None:
    """Resource limits, the umask and the score of the out-of-memory killer are those planned."""
    limits = (Rlimit(name="nofile", soft=50, hard=60), Rlimit(name="core", soft=0, hard=0))
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj"
    found = succeeded(subject.sh(script, rlimits=limits, oom_score_adj=500)).split()
    expect_equal(found, ["50", "60", "0", "0022", "500"], "limits, umask and score")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    expect_equal(resource.getrlimit(resource.RLIMIT_NOFILE)[1], hard, "hard limit of the caller")


@case("runtime.process.descriptors")
def only_the_streams_are_open(subject: Subject) -> None:
    """The command and one of exec have the three standard streams and no other descriptor."""
    opened = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(opened, True)
    container = subject.start("sleep", "100")
    script = "for each in /proc/self/fd/*; do readlink $each >/dev/null && echo ${each##*/}; done; true"
    for found in (subject.sh(script), container.exec("/bin/sh", "-c", script)):
        expect_equal(set(succeeded(found).split()) - {"0", "1", "2"}, set(), "further descriptors of the command")
    os.close(opened)


@case("runtime.streams.apart")
def streams_are_apart(subject: Subject) -> None:
    """Standard input is what was lent, and output and errors are apart."""
    reader, writer = os.pipe()
    os.write(writer, b"told\n")
    os.close(writer)
    done = subject.sh("cat; echo wrong >&2", stdin=reader)
    os.close(reader)
    expect_equal((done.stdout, done.stderr), ("told\n", "wrong\n"), "output and errors")


@case("runtime.streams.terminal")
def a_terminal_is_the_containers_own(subject: Subject) -> None:
    """With a terminal the command has one of the container's own devpts, whose size can be set; so has exec."""
    container = subject.container("/bin/sh", "-c", "read line; tty; stty size; echo $line", tty=True)
    container.create()
    container.start()
    expect(container.terminal is not None, "no terminal was returned")
    master = container.terminal or 0
    tty.set_window_size(master, 41, 97)
    os.write(master, b"typed\n")
    lines = [line for line in container.outcome().stdout.replace("\r", "").split("\n") if line]
    expect_equal(lines[-3:], ["/dev/pts/0", "41 97", "typed"], "terminal, size and what was typed")
    other = subject.start("sleep", "100")
    shown = other.exec("tty", tty=True).stdout.strip()
    expect(shown.startswith("/dev/pts/"), f"terminal of exec: {shown!r}")


@case("runtime.mounts.root")
def the_root_can_be_read_only(subject: Subject) -> None:
    """A root that is read-only refuses writes, and what is mounted in it does not; else it can be written."""
    tmpfs = (ResolvedMount(target=GuestPath("/work")),)
    done = subject.sh("touch /made; touch /work/made && echo fine", read_only=True, mounts=tmpfs)
    expect_equal(done.stdout, "fine\n", "writing to what is mounted in a read-only root")
    expect("ead-only file system" in done.stderr, f"writing to a read-only root: {done.stderr!r}")
    succeeded(subject.sh("touch /made"))


@case("runtime.mounts.flags")
def mounts_are_as_planned(subject: Subject) -> None:
    """Bind mounts and new filesystems are where, and with the flags and options, that were planned."""
    shared = f"{subject.scratch}/shared"
    os.mkdir(shared)
    mounts = (
        ResolvedMount(target=GuestPath("/in"), source=HostPath(shared), read_only=True),
        ResolvedMount(target=GuestPath("/out"), source=HostPath(shared)),
        ResolvedMount(target=GuestPath("/mem"), options=(("size", "1m"), ("noexec", None))),
    )
    script = "echo x >/out/file; cat /in/file; touch /in/no; grep -E ' /(in|out|mem) ' /proc/mounts"
    done = subject.sh(script, mounts=mounts)
    lines = done.stdout.splitlines()
    expect_equal(lines[:1], ["x"], "what one mount has of the other")
    expect("ead-only" in done.stderr, f"writing to a mount that is read-only: {done.stderr!r}")
    found = {line.split()[1]: set(line.split()[3].split(",")) for line in lines[1:]}
    expect("ro" in found.get("/in", ()) and "rw" in found.get("/out", ()), f"mounts: {lines[1:]}")
    expect({"noexec", "size=1024k"} <= found.get("/mem", set()), f"options of a tmpfs: {lines[1:]}")


@case("runtime.mounts.private")
def mounts_do_not_leave(subject: Subject) -> None:
    """What is mounted in the container is not seen outside, and the root of the host not inside."""
    container = subject.start("/bin/sh", "-c", "mount -t tmpfs none /tmp; echo; sleep 100", privileged=True)
    expect(soon(container.output), "the command did not mount")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        inside = [line for line in stream if f"{container.bundle.root}/" in line]
    expect_equal(inside, [], "mounts below the root, seen from outside")
    listed = succeeded(container.exec("ls", "/")).split()
    expect_equal(
        [name for name in listed if name in ("boot", "var", "opt")], [], "directories of the host, seen inside"
    )


@case("runtime.mounts.masked")
def paths_are_masked_and_read_only(subject: Subject) -> None:
    """Masked paths have no content, and paths made read-only refuse writes."""
    found = succeeded(subject.sh("head -c 1 /proc/kcore | wc -c; ls -A /sys/firmware | wc -l")).split()
    expect_equal(found, ["0", "0"], "bytes of /proc/kcore, and names in /sys/firmware")
    refused = subject.sh("echo 1 >/proc/sys/kernel/panic")
    expect(refused.code != 0, "a kernel parameter was written")


@case("runtime.devices.only-those")
def only_planned_devices_are_there(subject: Subject) -> None:
    """The device nodes are those planned, with their numbers and modes, and the usual links lead to them."""
    done = subject.sh("find /dev -xdev -type c -o -type b -xdev | sort; stat -c '%t %T %a' /dev/null; readlink /dev/fd")
    lines = succeeded(done).splitlines()
    nodes = [line for line in lines if line.startswith("/dev/") and not line.startswith("/dev/pts/")]
    planned = sorted(str(node.path) for node in subject.containers[-1].bundle.devices)
    expect_equal([node for node in nodes if node not in ("/dev/console", "/dev/ptmx")], planned, "device nodes")
    expect_equal(lines[-2:], ["1 3 666", "/proc/self/fd"], "/dev/null and /dev/fd")


@case("runtime.names.set")
def names_and_parameters_are_the_containers(subject: Subject) -> None:
    """Host name, domain name and kernel parameters are set in the container and stay as they are outside."""
    before = os.uname().nodename
    script = "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward"
    sysctls = {"net.ipv4.ip_forward": "1"}
    found = succeeded(subject.sh(script, domainname="example.test", sysctls=sysctls)).split()
    named = subject.containers[-1].bundle.hostname
    expect_equal(found, [named, "example.test", "1"], "names and parameter inside")
    expect_equal(os.uname().nodename, before, "name of the host")


@case("runtime.namespaces.own")
def namespaces_are_those_planned(subject: Subject) -> None:
    """Namespaces of the plan are new, the others are the caller's, and one that is to be joined is that very one."""
    names = ("pid", "net", "mnt", "uts", "ipc", "cgroup", "user")
    script = "for each in " + " ".join(names) + "; do readlink /proc/self/ns/$each; done"
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in names]

    def new(found: str) -> set[str]:
        return {name for name, inside, outside in zip(names, found.split(), ours, strict=True) if inside != outside}

    own = {"pid", "net", "mnt", "uts", "ipc", "cgroup"}
    expect_equal(new(succeeded(subject.sh(script))), own, "new namespaces")
    fewer = subject.sh(script, clone_flags=NAMESPACES & ~CLONE_NEWNET & ~CLONE_NEWUTS)
    expect_equal(new(succeeded(fewer)), own - {"net", "uts"}, "new namespaces where two are the host's")
    other = subject.start("sleep", "100")
    joined = subject.sh(
        "readlink /proc/self/ns/net",
        clone_flags=NAMESPACES & ~CLONE_NEWNET,
        join=(("net", HostPath(f"/proc/{other.pid}/ns/net")),),
    )
    expect_equal(succeeded(joined).strip(), os.readlink(f"/proc/{other.pid}/ns/net"), "network namespace joined")


@case("runtime.cgroup.entered")
def the_group_is_entered_first(subject: Subject) -> None:
    """Every process is in the container's group, or one below it, from the first on, and sees it as the root."""
    container = subject.start("/bin/sh", "-c", "cat /proc/self/cgroup; exec sleep 100")
    expect(container.pid in container.group.pids(), f"process {container.pid} is not in its group")
    expect(soon(container.output), "the command wrote nothing")
    inside = succeeded(container.exec("cat", "/proc/self/cgroup"))
    for found in (container.output(), inside):
        places = {line.split(":", 2)[2] for line in found.splitlines()}
        expect_equal(places, {"/"}, "groups, as seen inside")
    expect_equal(container.group.pids(), (container.pid,), "processes of the group once that of exec has ended")


@case("runtime.init.reaps", needs=[Capability.INIT])
def an_init_reaps_and_passes_signals_on(subject: Subject) -> None:
    """With an init the command is its child, and orphans are reaped; signals and the exit code are passed on."""
    script = "(sleep 0.1 &); sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; echo $$; exit 6"
    outcome = subject.sh(script, init=True)
    zombies, place = outcome.stdout.split()
    expect_equal((outcome.code, zombies), (6, "0"), "exit code, and zombies")
    expect(place != "1", "the command is the first process itself")
    container = subject.start("/bin/sh", "-c", "trap 'exit 5' TERM; echo; while :; do sleep 0.05; done", init=True)
    expect(soon(container.output), "the command wrote nothing")
    container.kill(signal.SIGTERM)
    expect_equal(container.wait(), 5, "exit code after a signal that the command handles")


@case("runtime.user.mapped", needs=[Capability.USER_NAMESPACE])
def user_ids_are_mapped(subject: Subject) -> None:
    """In a user namespace user 0 is somebody else outside, and has every right inside only."""
    container = subject.start(
        "/bin/sh", "-c", "id -u; sleep 100", clone_flags=NAMESPACES | CLONE_NEWUSER, user_map=_MAP
    )
    expect(soon(container.output), "the command wrote nothing")
    expect_equal(container.output(), "0\n", "own id, inside")
    expect_equal(os.stat(f"/proc/{container.pid}").st_uid, _MAP.uids[0].host, "owner of the process, outside")
    expect_equal(succeeded(container.exec("id", "-u")), "0\n", "own id of exec")


@case("runtime.time.offset", needs=[Capability.TIME_NAMESPACE])
def clocks_are_set_apart(subject: Subject) -> None:
    """In a time namespace the clock since boot is set apart by the offset."""
    found = subject.sh(
        "cut -d. -f1 /proc/uptime",
        clone_flags=NAMESPACES | CLONE_NEWTIME,
        time_offsets=(("monotonic", 1_000_000), ("boottime", 1_000_000)),
    )
    with open("/proc/uptime", encoding="ascii") as stream:
        ours = float(stream.read().split()[0])
    expect(0 <= int(succeeded(found)) - ours - 1_000_000 + 60 < 120, f"uptime inside {found.stdout!r}, outside {ours}")
