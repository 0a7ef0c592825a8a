"""Terminals of a container, on the real kernel."""

from __future__ import annotations

from plugengine.model import GuestPath, HostPath
from plugengine.runtime.request import ResolvedMount
from tests.system.guest.conftest import Container, Monitor


def test_a_terminal_is_the_containers_own_and_controls_its_session(monitor: Monitor) -> None:
    done = monitor.sh(
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all; echo $TERM; echo here > /dev/tty", tty=True
    )
    assert done.lines == ["/dev/pts/0", "all", "xterm", "here"]


def test_the_console_is_the_terminal(monitor: Monitor) -> None:
    done = monitor.sh(
        "echo hello > /dev/console; stat -c %t:%T /dev/console /dev/pts/0; grep -c /dev/console /proc/self/mountinfo",
        tty=True,
    )
    assert done.lines == ["hello", "88:0", "88:0", "1"]


def test_the_user_owns_the_terminal(monitor: Monitor) -> None:
    done = monitor.sh("stat -c '%U %g %a' $(tty)", tty=True, user="alice")
    assert done.lines == ["alice 5 620"]


def test_a_size_set_on_the_master_is_seen_inside(monitor: Monitor) -> None:
    def run() -> str:
        from plugengine.kernel import tty

        container = Container(monitor.rootfs.request("/bin/sh", "-c", "read line; stty size", tty=True))
        container.start()
        tty.set_window_size(container.master, 33, 101)
        import os

        os.write(container.master, b"\n")
        return container.finish().stdout

    assert monitor(run).endswith("33 101\r\n")


def test_ctrl_c_typed_on_the_master_interrupts_the_command(monitor: Monitor) -> None:
    def run() -> int:
        import os

        container = Container(
            monitor.rootfs.request(
                "/bin/sh", "-c", "trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done", tty=True
            )
        )
        container.start()
        seen = b""
        while b"ready" not in seen:
            seen += os.read(container.master, 100)
        os.write(container.master, b"\x03")
        return container.finish().code

    assert monitor(run) == 42


def test_a_terminal_works_where_dev_is_the_callers(monitor: Monitor) -> None:
    done = monitor.sh(
        "test -t 1 && echo yes",
        tty=True,
        mounts=(ResolvedMount(target=GuestPath("/dev"), source=HostPath("/dev"), recursive=True),),
    )
    assert (done.error, done.lines) == ("", ["yes"])
