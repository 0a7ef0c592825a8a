"""More processes in a running container, on the real kernel."""

from __future__ import annotations

import os
from typing import Any

import pytest

from plugengine.kernel.process import CLONE_NEWTIME
from plugengine.model import UserMap
from plugengine.security import capabilities
from tests.system.guest.conftest import ALL_NAMESPACES, USER_MAP, Container, Monitor, Outcome


def _exec(monitor: Monitor, *command: str, user_map: UserMap | None = None, **options: Any) -> Outcome:
    return monitor.beside(lambda container: container.exec(command, **options), user_map=user_map)


@pytest.mark.parametrize("user_map", [None, USER_MAP], ids=["host users", "user namespace"])
def test_a_command_runs_in_every_namespace_of_the_container(monitor: Monitor, user_map: UserMap | None) -> None:
    def use(container: Container) -> tuple[Outcome, list[str]]:
        names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
        links = [os.readlink(f"/proc/{container.pid}/ns/{name}") for name in names]
        done = container.exec(
            ("/bin/sh", "-c", "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done")
        )
        return done, links

    done, links = monitor.beside(use, user_map=user_map)
    assert (done.error, done.lines) == ("", links)


@pytest.mark.parametrize("user_map", [None, USER_MAP], ids=["host users", "user namespace"])
def test_identity_environment_and_directory_are_those_asked_for(monitor: Monitor, user_map: UserMap | None) -> None:
    script = "id -u; id -G; pwd; echo $A $HOME; umask"
    done = _exec(monitor, "/bin/sh", "-c", script, user="alice", env=("A=b",), working_dir="/tmp", user_map=user_map)
    assert done.lines == ["1000", "1000 29", "/tmp", "b /home/alice", "0022"]


def test_the_code_of_the_command_comes_back(monitor: Monitor) -> None:
    assert _exec(monitor, "/bin/sh", "-c", "exit 33").code == 33


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        ("nonesuch", "run nonesuch: No such file or directory", 127),
        ("/etc/passwd", "run /etc/passwd: Permission denied", 126),
    ],
)
def test_a_command_that_cannot_run_says_why(monitor: Monitor, command: str, error: str, code: int) -> None:
    done = _exec(monitor, command)
    assert (done.error, done.exit_code, done.code) == (error, code, code)


def test_a_missing_working_directory_is_an_error(monitor: Monitor) -> None:
    done = _exec(monitor, "true", working_dir="/nowhere")
    assert done.error == "change to the working directory /nowhere: No such file or directory (/nowhere)"


def test_capabilities_are_the_containers_unless_privileged(monitor: Monitor) -> None:
    def use(container: Container) -> list[str]:
        usual = container.exec(("grep", "Cap", "/proc/self/status"))
        privileged = container.exec(("grep", "Cap", "/proc/self/status"), privileged=True)
        return [line.split()[1] for line in (*usual.lines, *privileged.lines)]

    seen = monitor.beside(use, cap_drop=("CHOWN",))
    default, everything = capabilities.DEFAULT & ~1, capabilities.resolve((), (), privileged=True)
    # CVE-2022-29162: inheritable and ambient are empty here too.
    assert [int(each, 16) for each in seen] == [
        0,
        default,
        default,
        default,
        0,
        0,
        everything,
        everything,
        everything,
        0,
    ]


def test_a_terminal_is_one_of_the_containers(monitor: Monitor) -> None:
    done = _exec(
        monitor,
        "/bin/sh",
        "-c",
        "tty; test -t 0 && echo yes; stat -c %U $(tty); echo to > /dev/tty",
        tty=True,
        user="alice",
    )
    assert (done.error, done.lines) == ("", ["/dev/pts/0", "yes", "alice", "to"])


def test_a_terminal_works_in_a_user_namespace(monitor: Monitor) -> None:
    done = _exec(monitor, "/bin/sh", "-c", "tty; echo to > /dev/tty", tty=True, user_map=USER_MAP)
    assert (done.error, done.lines) == ("", ["/dev/pts/0", "to"])


def test_the_process_is_the_monitors_child_and_has_no_stray_descriptor(monitor: Monitor) -> None:
    def use(container: Container) -> tuple[list[str], list[str]]:
        done = container.exec(("/bin/sh", "-c", "ls /proc/$$/fd"))
        with open(f"/proc/self/task/{os.getpid()}/children") as stream:
            return done.lines, [pid for pid in stream.read().split() if int(pid) != container.pid]

    # Had it another parent, waiting for its pidfd would have failed; both processes are reaped.
    assert monitor.beside(use) == (["0", "1", "2"], [])


def test_the_seccomp_filter_of_the_container_is_in_force(monitor: Monitor) -> None:
    allow_all = '{"defaultAction": "SCMP_ACT_ALLOW"}'
    done = monitor.beside(lambda container: container.exec(("cat", "/proc/self/status")), seccomp=allow_all)
    assert "Seccomp:\t2" in done.lines


def test_a_container_that_has_ended_cannot_be_joined(monitor: Monitor) -> None:
    def use(container: Container) -> Outcome:
        container.kill()
        os.waitid(os.P_PIDFD, container.pidfd, os.WEXITED | os.WNOWAIT)
        return container.exec(("true",))

    done = monitor.beside(use)
    assert done.code == 125
    assert done.error.startswith("join the container's namespaces: ")


def test_many_at_once_all_come_back(monitor: Monitor) -> None:
    def use(container: Container) -> list[int]:
        workers = []
        for number in range(10):
            worker = os.fork()
            if worker == 0:
                os._exit(container.exec(("/bin/sh", "-c", f"exit {number}")).code)
            workers.append(worker)
        return [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]

    assert monitor.beside(use) == list(range(10))


def test_a_time_namespace_is_joined_too(monitor: Monitor) -> None:
    def run() -> tuple[str, str, str]:
        container = Container(monitor.rootfs.request("sleep", "100", namespaces=ALL_NAMESPACES | CLONE_NEWTIME))
        container.start()
        theirs = os.readlink(f"/proc/{container.pid}/ns/time")
        done = container.exec(("readlink", "/proc/self/ns/time"))
        container.kill()
        container.finish()
        return os.readlink("/proc/self/ns/time"), theirs, done.stdout.strip()

    ours, theirs, seen = monitor(run)
    assert seen == theirs != ours
