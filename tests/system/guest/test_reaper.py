"""`--init`: the small first process, on the real kernel."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from plugengine_runtime_native.child import native, reaper

from tests.system.guest.conftest import Container, Monitor, assert_goes
from tests.waiting import eventually


def test_the_command_is_the_second_process_and_its_code_is_passed_on(monitor: Monitor) -> None:
    # The first process turns into init while its child runs already.
    wait = "for i in $(seq 500); do [ $(cat /proc/1/comm) = init ] && break; sleep 0.01; done"
    done = monitor.sh(f"echo $$; {wait}; cat /proc/1/comm; exit 9", init=True)
    assert (done.lines, done.code) == (["2", "init"], 9)


def test_a_command_that_cannot_run_is_reported_and_its_code_passed_on(monitor: Monitor) -> None:
    done = monitor.run("nonesuch", init=True)
    assert (done.error, done.code) == ("run nonesuch: No such file or directory", 127)


def test_orphans_are_reaped(monitor: Monitor) -> None:
    done = monitor.sh("(sleep 0.05 & ) ; sleep 0.3; for p in /proc/[0-9]*; do grep State $p/status; done", init=True)
    assert not any("zombie" in line for line in done.lines)
    assert len(done.lines) == 2  # init and the shell


@pytest.fixture(autouse=True, params=["machine code", "interpreter"])
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every test run with both kinds of init; the second is for machines the first does not know."""
    if request.param == "interpreter":
        monkeypatch.setattr(reaper, "_PROGRAM", None)
    elif native.elf(os.uname().machine) is None:
        pytest.skip("no program for this machine")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_passed_on(monitor: Monitor, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")

    def run() -> int:
        script = f"trap 'exit 21' {name}; echo ready; while :; do sleep 0.02; done"
        container = Container(monitor.rootfs.request("/bin/sh", "-c", script, init=True, user="alice"))
        container.start()
        eventually(lambda: "ready" in container.output())
        signal.pidfd_send_signal(container.pidfd, number)
        return container.finish().code

    assert monitor(run) == 21


def test_a_command_killed_by_a_signal_gives_128_and_its_number(monitor: Monitor) -> None:
    assert monitor.sh("kill -KILL $$", init=True).code == 137


def test_everything_ends_with_the_command(monitor: Monitor) -> None:
    assert monitor.sh("sleep 1000 & exit 3", init=True).code == 3


@pytest.mark.parametrize(("user", "capabilities"), [("root", 1 << 5), ("alice", 0)])
def test_init_holds_the_streams_of_the_command_and_no_capability_but_kill(
    monitor: Monitor, user: str, capabilities: int
) -> None:
    def run() -> tuple[dict[str, str], dict[str, str], str]:
        script = "echo ready; exec sleep 100"
        container = Container(monitor.rootfs.request("/bin/sh", "-c", script, init=True, user=user))
        container.start()
        eventually(lambda: "ready" in container.output())
        # The command may be ready before its init has become one.
        eventually(lambda: len(os.listdir(f"/proc/{container.pid}/fd")) <= 3)
        with open(f"/proc/{container.pid}/status") as stream:
            effective = next(line.split()[1] for line in stream if line.startswith("CapEff"))
        (command,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        held, theirs = (
            {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            for pid in (container.pid, command)
        )
        container.kill()
        container.finish()
        return held, theirs, effective

    held, theirs, effective = monitor(run)
    assert sorted(held) == ["0", "1", "2"]
    assert held == theirs
    assert int(effective, 16) == capabilities


def test_cve_2019_5736_the_engine_cannot_be_reached_through_init(monitor: Monitor) -> None:
    done = monitor.sh("readlink /proc/1/exe; echo x > /proc/1/exe; cat /proc/1/environ", init=True)
    assert done.stdout in {"", "/memfd:init (deleted)\n"}
    assert "cannot create /proc/1/exe" in done.stderr


def test_init_goes_when_the_monitor_is_killed(monitor: Monitor) -> None:
    def run() -> None:
        reader, writer = os.pipe()
        monitoring = os.fork()
        if monitoring == 0:
            container = Container(monitor.rootfs.request("sleep", "100", init=True))
            container.start()
            os.write(writer, b"%d" % container.pid)
            os._exit(0)
        os.waitpid(monitoring, 0)
        assert_goes(int(os.read(reader, 20)))

    monitor(run)


def test_init_is_bound_by_the_filter_and_can_never_gain_a_capability(monitor: Monitor) -> None:
    # The command may begin before its init is confined, which the engine's memory is protected from until then.
    bound = f"{1 << 5:016x}"
    confined = f'case "$(cat /proc/1/status)" in *CapBnd:?{bound}*Seccomp:?2*) break;; esac'
    script = f"for i in $(seq 1000); do {confined}; sleep 0.02; done; cat /proc/1/status; exit 4"
    done = monitor.sh(script, init=True, seccomp="default", no_new_privileges=True)
    assert done.code == 4
    assert "Seccomp:\t2" in done.lines
    assert "NoNewPrivs:\t1" in done.lines
    assert f"CapBnd:\t{bound}" in done.lines
    assert f"CapInh:\t{0:016x}" in done.lines


def test_init_is_in_a_session_of_its_own(monitor: Monitor) -> None:
    # The command may begin before its init has become one; a session that is not its own it would keep for ever.
    settled = "for i in $(seq 1000); do [ $(cut -d' ' -f6 /proc/1/stat) = 1 ] && break; sleep 0.02; done"
    done = monitor.sh(f"{settled}; cut -d' ' -f6 /proc/1/stat /proc/$$/stat", init=True)
    assert done.lines == ["1", "2"]
