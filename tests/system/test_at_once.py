"""Two commands on one container at once, and answers where docker users expect docker's."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tests.conftest import Pe
from tests.system.conftest import Start
from tests.system.test_life_cycle import FOREVER, NONE, inspect, status
from tests.waiting import PATIENCE_S, eventually


def test_restart_keeps_a_container_that_is_to_be_removed_at_its_end(pe: Pe, start: Start) -> None:
    name = start("--rm", *NONE, "--name", "again", *FOREVER)
    pe("restart", "-t", "0", "again", check=True)
    assert (status(pe, "again"), inspect(pe, "again")["Id"]) == ("running", name)
    pe("stop", "-t", "0", "again", check=True)
    assert pe("inspect", "again").returncode != 0, "its next end is the last one"


def test_starting_what_runs_is_no_error(pe: Pe, start: Start) -> None:
    start(*NONE, "--name", "up", *FOREVER)
    pid = inspect(pe, "up")["State"]["Pid"]
    assert pe("start", "up", check=True).stdout == "up\n"
    assert inspect(pe, "up")["State"]["Pid"] == pid


def test_a_container_paused_while_it_is_stopped_is_stopped(pe: Pe, start: Start) -> None:
    start(*NONE, "--name", "held", "host:base", "sh", "-c", "trap 'echo asked' TERM; while :; do sleep 0.05; done")
    with pe.popen("stop", "-t", "6", "held") as stop:
        eventually(lambda: pe("logs", "held").stdout == "asked\n")
        pe("pause", "held", check=True)
        assert stop.wait(PATIENCE_S) == 0
    assert status(pe, "held") == "exited"


def test_the_same_command_from_many_at_once_leaves_a_consistent_container(pe: Pe) -> None:
    pe("create", *NONE, "--name", "busy", *FOREVER, check=True)
    for command in (("start",), ("pause",), ("unpause",), ("stop", "-t", "0"), ("start",), ("rm", "-f")):
        crowd = [pe.popen(*command, "busy", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
        errors = [each.communicate()[1] for each in crowd]
        assert any(each.returncode == 0 for each in crowd), (command, errors)
        assert "internal error" not in "".join(errors), errors
        assert "Traceback" not in "".join(errors), errors
    assert pe("ps", "-aq").stdout == ""


def test_exec_while_a_container_ends_says_so_and_disturbs_nothing(pe: Pe, start: Start) -> None:
    for _ in range(5):
        start(*NONE, "--name", "brief", "host:base", "sleep", "0.3")
        seen = ""
        while "no such" not in seen and "not running" not in seen and "has just ended" not in seen:
            done = pe("exec", "brief", "true")
            seen = done.stderr
            assert "internal error" not in seen, seen
        pe("wait", "brief", check=True)
        assert inspect(pe, "brief")["State"]["ExitCode"] == 0
        pe("rm", "brief", check=True)


def test_a_dry_run_takes_no_step_whatever_the_storage_driver(pe: Pe) -> None:
    for driver in ("overlay", "fuse_union"):
        done = pe("run", "--dry-run", "--storage", driver, *NONE, *FOREVER, check=True)
        assert "run sleep 1000" in done.stdout
    assert pe("ps", "-aq").stdout == ""


def test_a_memory_limit_too_low_to_start_anything_is_refused(pe: Pe) -> None:
    done = pe("run", *NONE, "-m", "1k", *FOREVER)
    assert (done.returncode, done.stderr) == (
        125,
        "pe: --memory 1024: less than a container needs to start\nhint: at least 6m\n",
    )
    assert pe("ps", "-aq").stdout == ""


def test_a_root_where_nothing_can_be_made_is_an_error(pe: Pe) -> None:
    done = pe("--root", "/proc/nope", "ps")
    assert (done.returncode, "pe: make directory /proc/nope: no such file" in done.stderr) == (125, True), done.stderr


def test_logs_of_both_streams_keep_their_order_where_both_go_to_one_place(pe: Pe) -> None:
    script = "echo 1; sleep 0.1; echo 2 >&2; sleep 0.1; echo 3; sleep 0.1; echo 4 >&2"
    pe("run", "--name", "mixed", *NONE, "host:base", "sh", "-c", script, check=True)
    done = subprocess.run(
        pe.command("logs", "mixed"), env=pe.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    assert done.stdout == b"1\n2\n3\n4\n"
    pe("rm", "mixed", check=True)


def test_a_configured_driver_that_is_not_installed_is_named_with_its_source(pe: Pe, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[drivers]\nstorage = "overlya"\n')
    environ = {**pe.environ, "PLUGENGINE_CONFIG": str(config)}
    done = subprocess.run(pe.command("run", *NONE, *FOREVER), env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, "pe: storage driver overlya: not installed")
    assert "configuration file names it" in done.stderr
    assert "did you mean overlay?" in done.stderr


def test_a_network_without_addresses_of_its_own_refuses_a_mac_address(pe: Pe) -> None:
    done = pe("run", "--net", "host", "--mac-address", "02:00:00:00:00:01", *FOREVER)
    assert done.returncode == 125
    assert "--mac-address: network driver host does not claim" in done.stderr


def test_a_container_that_stops_what_joins_it_cannot_hold_its_end_up(pe: Pe, start: Start) -> None:
    """A process in a container may send SIGSTOP to one that joins it before that has become its command."""
    stopper = "import os, signal\nwhile True:\n  for p in os.listdir('/proc'):\n    if p.isdigit() and int(p) > 1:\n"
    stopper += "      os.kill(int(p), signal.SIGSTOP)\n"
    start(*NONE, "--name", "trap", "host:python", "python3", "-c", stopper)
    caught = [pe.popen("exec", "trap", "true", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    time.sleep(0.3)
    pe("stop", "-t", "0", "trap", check=True)
    for each in caught:
        assert each.communicate(timeout=PATIENCE_S)[1] is not None
    assert status(pe, "trap") == "exited"


def test_words_that_are_not_utf8_are_refused_by_name(pe: Pe, start: Start) -> None:
    start(*NONE, "--name", "utf", *FOREVER)
    for words in (["run", *NONE, "host:base", "echo"], ["exec", "utf", "echo"], ["inspect"]):
        command = [os.fsencode(word) for word in pe.command(*words)]
        done = subprocess.run([*command, b"a\xff"], env=pe.environ, capture_output=True, check=False)
        assert done.returncode in {2, 125}
        assert b": is not UTF-8" in done.stderr.splitlines()[0], done.stderr
    assert status(pe, "utf") == "running"


def test_closed_and_full_outputs_are_no_bug_of_ours(pe: Pe) -> None:
    run = " ".join(pe.command("run", "--rm", *NONE, "host:base"))

    def shell(script: str) -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", script], env=pe.environ, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    for _ in range(2):  # the second time from a prepared process
        assert shell(f"{run} sh -c 'echo x; exit 4' >&-") == (4, "")
        assert shell(f"{run} sh -c 'echo x; exit 4' <&- >&- 2>&-") == (4, "")
        code, said = shell(f"{run} sh -c 'echo x; exit 4' > /dev/full")
        assert (code, said.splitlines()[0]) == (
            125,
            "pe: write the container's output to descriptor 1: No space left on device",
        )
