"""More commands in a running container: what they see, who they are, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.system.test_streams import Terminal
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")


@pytest.fixture
def box(start: Start) -> str:
    """A container that sleeps, with a setting of its own to be inherited."""
    return start(*NONE, "-e", "COLOUR=green", "-w", "/tmp", "-h", "box", "host:base", "sleep", "1000")


def test_a_command_runs_beside_the_first_one_in_all_its_namespaces(pe: Pe, box: str) -> None:
    same = "test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo $n"
    script = f"for n in pid net mnt uts ipc cgroup; do {same}; done; hostname; cat /proc/1/comm"
    assert pe("exec", box, "sh", "-c", script, check=True).stdout == "box\nsleep\n"


def test_environment_and_directory_are_the_containers_unless_given(pe: Pe, box: str) -> None:
    assert pe("exec", box, "sh", "-c", "echo $COLOUR $PWD", check=True).stdout == "green /tmp\n"
    given = pe("exec", "-e", "COLOUR=red", "-e", "MORE=1", "-w", "/etc", box, "sh", "-c", "echo $COLOUR $MORE $PWD")
    assert given.stdout == "red 1 /etc\n"


def test_the_callers_own_environment_stays_outside(pe: Pe, box: str) -> None:
    assert "PLUGENGINE_ROOT" not in pe("exec", box, "env", check=True).stdout


def test_an_environment_file_is_read(pe: Pe, box: str, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nONE=1\n\nTWO=two words\n")
    done = pe("exec", "--env-file", str(tmp_path / "env"), box, "sh", "-c", "echo $ONE $TWO", check=True)
    assert done.stdout == "1 two words\n"


def test_a_command_runs_as_another_user(pe: Pe, box: str) -> None:
    assert pe("exec", "-u", "nobody", box, "id", "-un", check=True).stdout == "nobody\n"
    assert (
        pe("exec", "-u", "1234:4321", box, "sh", "-c", "id -u; id -g; id -G", check=True).stdout == "1234\n4321\n4321\n"
    )


@pytest.mark.parametrize(("words", "code"), [(("sh", "-c", "exit 9"), 9), (("nosuch",), 127), (("/etc/passwd",), 126)])
def test_the_exit_code_is_the_commands_own(pe: Pe, box: str, words: tuple[str, ...], code: int) -> None:
    assert pe("exec", box, *words).returncode == code


def test_a_killed_command_reports_its_signal(pe: Pe, box: str) -> None:
    assert pe("exec", box, "sh", "-c", "kill -KILL $$").returncode == 137


def test_streams_of_a_command_are_its_own(pe: Pe, box: str) -> None:
    done = pe("exec", "-i", box, "sh", "-c", "cat; echo err >&2", input="through\n", check=True)
    assert (done.stdout, done.stderr) == ("through\n", "err\n")
    assert pe("logs", box, check=True).stdout == "", "the log is the first process's"


def test_many_bytes_go_through_a_command(pe: Pe, box: str) -> None:
    data = os.urandom(1 << 16) * 128
    line = pe.command("exec", "-i", box, "cat")
    assert subprocess.run(line, env=pe.environ, input=data, capture_output=True, timeout=PATIENCE_S).stdout == data


def test_a_detached_command_goes_on_without_its_caller(pe: Pe, box: str) -> None:
    pe("exec", "-d", box, "sh", "-c", "sleep 0.2; echo done > /tmp/done; sleep 1000", check=True)
    assert eventually(lambda: pe("exec", box, "cat", "/tmp/done").stdout) == "done\n"


def test_a_command_ends_with_its_container(pe: Pe, box: str) -> None:
    running = pe.popen("exec", box, "sleep", "1000")
    eventually(lambda: "sleep 1000\n" in pe("top", box).stdout and pe("top", box).stdout.count("sleep 1000") == 2)
    pe("kill", box, check=True)
    assert running.wait(timeout=PATIENCE_S) == 137


def test_a_command_whose_caller_is_killed_does_not_take_the_container_along(pe: Pe, box: str) -> None:
    running = pe.popen("exec", "-i", box, "cat", stdin=subprocess.PIPE)
    eventually(lambda: " cat" in pe("top", box).stdout)
    running.kill()
    running.communicate()
    eventually(lambda: " cat" not in pe("top", box).stdout)
    assert pe("exec", box, "echo", "alive", check=True).stdout == "alive\n"


def test_a_command_on_a_terminal_has_one(pe: Pe, box: str) -> None:
    terminal = Terminal(pe, "exec", "-it", "-e", "PS1=ready> ", box, "sh", rows=33, columns=99)
    try:
        terminal.expect("ready> ")
        terminal.type("stty size; tty\r")
        terminal.expect(r"\n33 99\r\n/dev/pts/\d+\r\n")
        terminal.type("exit 6\r")
        assert terminal.wait() == 6
    finally:
        terminal.close()


def test_a_privileged_command_has_every_capability(pe: Pe, box: str) -> None:
    ordinary = pe("exec", box, "sh", "-c", "grep CapEff /proc/self/status", check=True).stdout.split()[1]
    privileged = pe(
        "exec", "--privileged", box, "sh", "-c", "grep CapEff /proc/self/status", check=True
    ).stdout.split()[1]
    own = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    assert int(ordinary, 16) == 0xA80425FB
    assert int(privileged, 16) == int(own, 16)


def test_limits_and_protections_hold_for_a_command_too(pe: Pe, start: Start) -> None:
    name = start(
        *NONE,
        "-m",
        "48m",
        "--ulimit",
        "nofile=77:88",
        "--security-opt",
        "no-new-privileges",
        "host:base",
        "sleep",
        "1000",
    )
    status = pe("exec", name, "sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/self/status", check=True).stdout
    assert status.startswith("77\n88\n")
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert "CapInh:\t0000000000000000" in status
    assert "CapAmb:\t0000000000000000" in status
    assert pe("exec", name, "tail", "/dev/zero").returncode == 137
    assert pe("exec", name, "true").returncode == 0, "the container lives on"


def test_exec_needs_a_container_that_runs(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--name", "over", "host:base", "true")
    pe("wait", name, check=True)
    done = pe("exec", "over", "true")
    assert done.returncode != 0
    assert "over" in done.stderr
    assert "not running" in done.stderr


def test_no_descriptor_of_the_engine_reaches_the_command(pe: Pe, box: str) -> None:
    # sh opens nothing by itself; ls has the directory it reads as one more.
    assert (
        pe("exec", box, "sh", "-c", "for fd in /proc/self/fd/*; do echo $fd; done | wc -l", check=True).stdout == "4\n"
    )
    links = pe("exec", box, "ls", "-l", "/proc/self/fd", check=True).stdout.split()
    assert not [word for word in links if word.startswith("/") and not word.startswith(("/proc/", "/dev/null"))]


def test_twenty_commands_at_once_all_answer(pe: Pe, box: str) -> None:
    running = [pe.popen("exec", box, "echo", str(number), stdout=subprocess.PIPE) for number in range(20)]
    assert [each.communicate(timeout=PATIENCE_S)[0] for each in running] == [f"{number}\n" for number in range(20)]
    assert all(each.returncode == 0 for each in running)
    assert json.loads(pe("inspect", box, check=True).stdout)[0]["State"]["Running"]


def test_every_signal_has_its_default_action_and_none_is_blocked(pe: Pe, box: str) -> None:
    look = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    wanted = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    assert pe("exec", box, *look, check=True).stdout == wanted
    assert pe("run", "--rm", *NONE, "host:base", *look, check=True).stdout == wanted
    assert pe("run", "--rm", *NONE, "--init", "host:base", *look, check=True).stdout == wanted
