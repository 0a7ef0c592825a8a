"""Who and what the command of a container is, on the real kernel."""

from __future__ import annotations

import errno
import json
import os
import subprocess

import pytest
from plugengine_runtime_native.child import native

from plugengine.bundle import Rlimit
from plugengine.errors import NotSupportedError
from plugengine.kernel import libc
from plugengine.model import GuestPath, HostPath
from plugengine.runtime.rlimits import may_raise_limits
from plugengine.security import capabilities
from plugengine.spec import Device, ImageConfig
from tests.conftest import need, need_tool
from tests.system.guest.conftest import Container, Monitor, Rootfs, assert_goes
from tests.waiting import eventually

_NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EOPNOTSUPP}],
}


def _status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_root_has_dockers_capabilities_and_nothing_to_inherit(monitor: Monitor) -> None:
    seen = _status(monitor.run("cat", "/proc/self/status").stdout)
    default = f"{capabilities.DEFAULT:016x}"
    assert (seen["CapPrm"], seen["CapEff"], seen["CapBnd"]) == (default, default, default)
    # CVE-2022-24769, CVE-2022-29162
    assert (seen["CapInh"], seen["CapAmb"]) == ("0" * 16, "0" * 16)


def test_another_user_has_no_capabilities_and_the_image_groups(monitor: Monitor) -> None:
    seen = _status(monitor.run("cat", "/proc/self/status", user="alice", groups=("video", "777")).stdout)
    assert seen["Uid"].split() == ["1000"] * 4
    assert seen["Gid"].split() == ["1000"] * 4
    # CVE-2023-25173: set, not left over from the engine
    assert seen["Groups"].split() == ["29", "44", "777", "1000"]
    assert (seen["CapPrm"], seen["CapEff"], seen["CapInh"], seen["CapAmb"]) == ("0" * 16,) * 4
    assert seen["CapBnd"] == f"{capabilities.DEFAULT:016x}"


def test_dropping_all_capabilities_leaves_none(monitor: Monitor) -> None:
    seen = _status(monitor.run("cat", "/proc/self/status", cap_drop=("ALL",)).stdout)
    assert (seen["CapPrm"], seen["CapEff"], seen["CapBnd"]) == ("0" * 16,) * 3


def test_a_process_starts_with_default_signals_and_none_blocked(monitor: Monitor) -> None:
    seen = _status(monitor.run("cat", "/proc/self/status").stdout)
    assert (seen["SigIgn"], seen["SigBlk"]) == ("0" * 16, "0" * 16)


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("user", ["root", "alice"])
def test_the_seccomp_filter_is_in_force(monitor: Monitor, user: str, no_new_privileges: bool) -> None:
    done = monitor.sh(
        "cat /proc/self/status; mkdir /tmp/x",
        user=user,
        no_new_privileges=no_new_privileges,
        seccomp=json.dumps(_NO_MKDIR),
    )
    seen = _status(done.stdout)
    assert seen["Seccomp"] == "2"
    assert seen["NoNewPrivs"] == str(int(no_new_privileges))
    assert "Operation not supported" in done.stderr
    assert seen["CapEff"] == (f"{capabilities.DEFAULT:016x}" if user == "root" else "0" * 16)


def test_the_environment_is_dockers_the_images_and_the_callers(monitor: Monitor) -> None:
    done = monitor.run(
        "env",
        user="alice",
        env=("A=caller", "EMPTY="),
        config=ImageConfig(env=("A=image", "B=image", "PATH=/usr/bin")),
    )
    assert sorted(done.lines) == ["A=caller", "B=image", "EMPTY=", "HOME=/home/alice", "HOSTNAME=box", "PATH=/usr/bin"]


def test_names_of_the_machine_are_the_containers_own(monitor: Monitor) -> None:
    done = monitor.sh("uname -n; cat /proc/sys/kernel/domainname", hostname="web", domainname="example.org")
    assert done.lines == ["web.example.org", "example.org"]
    assert os.uname().nodename != "web.example.org"


def test_limits_are_set_before_the_command_runs(monitor: Monitor) -> None:
    limits = (Rlimit(name="nofile", soft=100, hard=200), Rlimit(name="core", soft=0, hard=0))
    done = monitor.sh("ulimit -Sn; ulimit -Hn; ulimit -Hc; umask", rlimits=limits)
    assert done.lines == ["100", "200", "0", "0022"]


def test_a_hard_limit_nobody_may_raise_is_an_error_before_anything_starts(monitor: Monitor) -> None:
    limits = (Rlimit(name="nofile", soft=100, hard=1 << 25),)
    if may_raise_limits():
        pytest.skip("has CAP_SYS_RESOURCE")
    with pytest.raises(NotSupportedError, match="--ulimit nofile=33554432: above the engine's own"):
        Container(monitor.rootfs.request("true", rlimits=limits))


def test_sysctls_are_set_in_the_containers_own_namespaces(monitor: Monitor) -> None:
    names = ("kernel/shmmax", "net/ipv4/ip_forward", "net/ipv4/ip_unprivileged_port_start", "fs/mqueue/msg_max")
    done = monitor.sh(
        " ".join(f"cat /proc/sys/{name};" for name in names),
        sysctls={"kernel.shmmax": "123456", "net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "20"},
    )
    assert done.lines == ["123456", "1", "0", "20"]


def test_a_sysctl_the_kernel_does_not_know_is_named(monitor: Monitor) -> None:
    done = monitor.run("true", sysctls={"net.ipv4.no_such_thing": "1"})
    assert done.code == 125
    assert done.error.startswith("set net.ipv4.no_such_thing to 1: No such file or directory")


def test_a_value_a_sysctl_refuses_is_named(monitor: Monitor) -> None:
    done = monitor.run("true", sysctls={"net.ipv4.ip_forward": "many"})
    assert done.error == "set net.ipv4.ip_forward to many: Invalid argument (net/ipv4/ip_forward)"


def test_a_device_of_the_host_is_there_with_its_number_and_owner(monitor: Monitor) -> None:
    devices = (Device(host=HostPath("/dev/kmsg"), guest=GuestPath("/dev/log/messages")),)
    done = monitor.sh("stat -c '%t:%T %a %u' /dev/log/messages", devices=devices)
    there = os.stat("/dev/kmsg")
    assert done.stdout.strip() == f"1:b {there.st_mode & 0o7777:o} {there.st_uid}"


def test_the_process_has_a_session_of_its_own_and_only_three_descriptors(monitor: Monitor) -> None:
    done = monitor.sh(
        "read pid comm state ppid pgrp session rest < /proc/self/stat; echo $pid $session; ls /proc/$$/fd"
    )
    assert done.lines == ["1 1", "0", "1", "2"]


def test_the_user_owns_the_pipes_it_was_given(monitor: Monitor) -> None:
    def run() -> str:
        reader, writer = os.pipe()
        os.write(writer, b"from the pipe\n")
        os.close(writer)
        container = Container(monitor.rootfs.request("/bin/sh", "-c", "cat /dev/stdin", user="alice"))
        container.start(stdin=reader)
        return container.finish().stdout

    assert monitor(run) == "from the pipe\n"


def test_a_directory_of_path_without_the_program_is_passed_over(monitor: Monitor, rootfs: Rootfs) -> None:
    rootfs.program("opt/tool", "#!/bin/sh\necho second\n")
    (rootfs.path / "first/tool").mkdir(parents=True)
    done = monitor.run("tool", env=("PATH=/etc/passwd:/nowhere:/first:/opt:/usr/bin",))
    assert done.stdout == "second\n"


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        ("nonesuch", "run nonesuch: No such file or directory", 127),
        ("/bin/nonesuch", "run /bin/nonesuch: No such file or directory", 127),
        ("/etc", "run /etc: Permission denied (a directory)", 126),
        ("/etc/passwd", "run /etc/passwd: Permission denied", 126),
        ("/etc/text", "run /etc/text: Exec format error", 126),
        ("/etc/fifo", "run /etc/fifo: Permission denied (not a plain file)", 126),
        (
            "/etc/orphan",
            "run /etc/orphan: Permission denied (the interpreter of the script is missing) (/no/such)",
            126,
        ),
        (
            "/etc/endless",
            "run /etc/endless: Too many levels of symbolic links (too many interpreters)",
            126,
        ),
        ("/etc/empty-interpreter", "run /etc/empty-interpreter: Exec format error", 126),
    ],
)
def test_a_command_that_cannot_run_says_why(
    monitor: Monitor, rootfs: Rootfs, command: str, error: str, code: int
) -> None:
    rootfs.program("etc/text", "no program\n")
    rootfs.program("etc/orphan", "#!/no/such\n")
    rootfs.program("etc/endless", "#!/etc/endless\n")
    rootfs.program("etc/empty-interpreter", "#!  \n")
    os.mkfifo(rootfs.path / "etc/fifo", 0o755)
    done = monitor.run(command)
    assert (done.error, done.exit_code, done.code) == (error, code, code)


def test_a_script_gets_its_interpreters_argument_and_its_own_name(monitor: Monitor, rootfs: Rootfs) -> None:
    rootfs.program("opt/show", "#!/bin/echo  one argument \nnever run\n")
    rootfs.program("opt/twice", "#!/opt/show second\n")
    assert monitor.run("/opt/show", "a", "b").stdout == "one argument /opt/show a b\n"
    assert monitor.run("/opt/twice", "a").stdout == "one argument /opt/show second /opt/twice a\n"


def test_a_program_has_its_usual_name_also_through_a_link_and_as_a_script(monitor: Monitor, rootfs: Rootfs) -> None:
    (rootfs.path / "opt").mkdir()
    (rootfs.path / "opt/applet").symlink_to("/usr/bin/cat")
    rootfs.program("opt/entry.sh", "#!/bin/sh\ncat /proc/$$/comm\n")
    assert monitor.run("cat", "/proc/self/comm").stdout == "cat\n"
    assert monitor.run("/opt/applet", "/proc/self/comm").stdout == "applet\n"
    assert monitor.run("/opt/entry.sh").stdout == "entry.sh\n"


def test_a_program_that_may_not_be_read_still_runs(monitor: Monitor, rootfs: Rootfs) -> None:
    (rootfs.path / "opt").mkdir()
    with open("/usr/bin/true", "rb") as program:
        (rootfs.path / "opt/closed").write_bytes(program.read())
    (rootfs.path / "opt/closed").chmod(0o711)
    done = monitor.run("/opt/closed", user="alice")
    assert (done.code, done.error) == (0, "")


def test_the_child_goes_when_its_parent_goes_before_the_word_to_start(monitor: Monitor) -> None:
    def run() -> int:
        def leave(_pid: int) -> None:
            os._exit(0)

        reader, writer = os.pipe()
        monitoring = os.fork()
        if monitoring == 0:
            os.close(reader)
            os.set_inheritable(writer, True)
            Container(monitor.rootfs.request("sleep", "100")).start(before_go=leave)
        os.close(writer)
        os.waitpid(monitoring, 0)
        # The child held the writing end too, until it closed what it does not need, or ended.
        return len(os.read(reader, 1))

    assert monitor(run) == 0


def test_the_command_goes_when_the_monitor_is_killed(monitor: Monitor) -> None:
    def run() -> None:
        reader, writer = os.pipe()
        monitoring = os.fork()
        if monitoring == 0:
            container = Container(monitor.rootfs.request("sleep", "100", user="alice"))
            container.start()
            os.write(writer, b"%d" % container.pid)
            os._exit(0)
        os.waitpid(monitoring, 0)
        assert_goes(int(os.read(reader, 20)))

    monitor(run)


def test_the_session_keyring_is_a_new_one(monitor: Monitor, rootfs: Rootfs) -> None:
    # keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING), by the interpreter of this machine's /usr.
    script = "import ctypes; print(ctypes.CDLL(None).syscall({}, 0, -3, 0))".format(libc.syscall_number("keyctl"))
    need_tool("python3")
    own = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, check=True).stdout
    done = monitor.run("/usr/bin/python3", "-c", script)
    assert int(done.stdout) > 0
    assert done.stdout != own


def test_an_init_of_machine_code_takes_a_few_pages(monitor: Monitor) -> None:
    need(None if native.elf(os.uname().machine) else "no machine code for this machine")

    def run() -> int:
        container = Container(monitor.rootfs.request("/bin/sh", "-c", "echo ready; exec sleep 100", init=True))
        container.start()
        eventually(lambda: "ready" in container.output())
        with open(f"/proc/{container.pid}/smaps_rollup") as stream:
            pss_kib = next(int(line.split()[1]) for line in stream if line.startswith("Pss:"))
        container.kill()
        container.finish()
        return pss_kib

    assert monitor(run) < 100


def test_starting_failing_and_joining_leave_nothing_behind_in_the_monitor(monitor: Monitor) -> None:
    def state() -> tuple[list[str], int, str]:
        with open("/proc/self/mountinfo") as mounts, open(f"/proc/self/task/{os.getpid()}/children") as children:
            return sorted(os.listdir("/proc/self/fd")), len(mounts.readlines()), children.read()

    def run() -> tuple[object, object]:
        def once() -> None:
            for command in (("true",), ("nonesuch",)):
                container = Container(monitor.rootfs.request(*command, tty=True))
                container.start()
                container.finish()
                container.close()
            container = Container(monitor.rootfs.request("sleep", "100", init=True))
            container.start()
            for command in (("true",), ("nonesuch",)):
                container.exec(command)
                container.exec(command, tty=True)
            container.kill()
            container.finish()
            container.close()

        once()
        before = state()
        once()
        return before, state()

    before, after = monitor(run)
    assert before == after
