"""A container from `create` to `rm`, and every command that looks at it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S, stands_still

NONE = ("--net", "none")
FOREVER = ("host:base", "sleep", "1000")
# A shell that is the first process and ends on TERM and INT, saying so.
POLITE = (
    "trap 'echo caught TERM; exit 4' TERM; trap 'echo caught INT; exit 5' INT; echo up; while :; do sleep 0.05; done"
)


def inspect(pe: Pe, name: str) -> dict[str, Any]:
    """Return a container's description."""
    found: dict[str, Any] = json.loads(pe("inspect", name, check=True).stdout)[0]
    return found


def status(pe: Pe, name: str) -> str:
    """Return a container's status."""
    return str(inspect(pe, name)["State"]["Status"])


def wait_for_log(pe: Pe, name: str, text: str) -> None:
    """Wait until a container has written something."""
    eventually(lambda: text in pe("logs", name).stdout)


# --- create, start, stop -----------------------------------------------------------------------------------


def test_create_makes_a_container_that_start_starts_and_restarts(pe: Pe) -> None:
    name = pe("create", *NONE, "--name", "made", "host:base", "sh", "-c", "echo run >> /count; wc -l < /count").stdout
    name = name.strip()
    try:
        assert re.fullmatch(r"[0-9a-f]{64}", name)
        assert status(pe, name) == "created"
        assert pe("start", "-a", "made", check=True).stdout == "1\n"
        assert status(pe, name) == "exited"
        assert pe("start", "-a", "made", check=True).stdout == "2\n", "the writable layer is kept"
    finally:
        pe("rm", name, check=True)
    assert pe("inspect", "made").returncode != 0


def test_start_without_attach_returns_at_once(pe: Pe) -> None:
    pe("create", *NONE, "--name", "later", *FOREVER, check=True)
    try:
        assert pe("start", "later", check=True).stdout == "later\n"
        assert status(pe, "later") == "running"
    finally:
        pe("rm", "-f", "later", check=True)


def test_stop_sends_the_stop_signal_and_waits(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", POLITE)
    wait_for_log(pe, name, "up")
    pe("stop", name, check=True)
    state = inspect(pe, name)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)


def test_the_stop_signal_can_be_another_one(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--stop-signal", "SIGINT", "host:base", "sh", "-c", POLITE)
    wait_for_log(pe, name, "up")
    pe("stop", name, check=True)
    assert inspect(pe, name)["State"]["ExitCode"] == 5


def test_stop_takes_a_signal_of_its_own(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", POLITE)
    wait_for_log(pe, name, "up")
    pe("stop", "--signal", "INT", name, check=True)
    assert inspect(pe, name)["State"]["ExitCode"] == 5


@pytest.mark.parametrize(
    ("flags", "least_s"),
    # Longer than without it; and far less than without it.
    [((("--stop-timeout", "11"), ()), 10.9), ((("--stop-timeout", "1000"), ("-t", "1")), 0.9)],
    ids=["of the container", "-t"],
)
def test_a_container_that_ignores_its_stop_signal_is_killed_after_the_timeout(
    pe: Pe, start: Start, flags: tuple[tuple[str, ...], tuple[str, ...]], least_s: float
) -> None:
    name = start(*NONE, *flags[0], *FOREVER)
    started = time.monotonic()
    pe("stop", *flags[1], name, check=True)
    assert time.monotonic() - started > least_s
    assert inspect(pe, name)["State"]["ExitCode"] == 128 + signal.SIGKILL


def test_stopping_what_does_not_run_is_fine(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "true")
    pe("wait", name, check=True)
    assert pe("stop", name, check=True).stdout == f"{name}\n"
    assert inspect(pe, name)["State"]["ExitCode"] == 0


def test_kill_sends_any_signal(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done")
    wait_for_log(pe, name, "up")
    pe("kill", "-s", "USR1", name, check=True)
    wait_for_log(pe, name, "usr1")
    pe("kill", name, check=True)
    assert pe("wait", name, check=True).stdout == "137\n"
    assert pe("kill", name).returncode != 0, "it does not run any more"


def test_restart_is_a_new_process_in_the_same_filesystem(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "echo x >> /count; exec sleep 1000")
    before = inspect(pe, name)["State"]["Pid"]
    pe("restart", "-t", "0", name, check=True)
    assert inspect(pe, name)["State"]["Pid"] != before
    assert eventually(lambda: pe("exec", name, "wc", "-l", "/count").stdout) == "2 /count\n"


def test_wait_returns_the_exit_codes_of_running_and_ended_containers(pe: Pe, start: Start) -> None:
    running = start(*NONE, "host:base", "sh", "-c", "sleep 0.5; exit 3")
    ended = start(*NONE, "host:base", "sh", "-c", "exit 6")
    assert pe("wait", running, ended, check=True).stdout == "3\n6\n"
    assert pe("wait", running, check=True).stdout == "3\n"


def test_a_running_container_is_removed_by_force_only(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--name", "busy", *FOREVER)
    refused = pe("rm", "busy")
    assert refused.returncode != 0
    assert "busy" in refused.stderr
    assert "running" in refused.stderr
    pe("rm", "-f", name, check=True)
    assert "busy" not in pe("ps", "-a").stdout


def test_rm_of_several_removes_what_it_can_and_names_what_it_can_not(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "true")
    pe("wait", name, check=True)
    done = pe("rm", "nosuch", name)
    assert done.returncode != 0
    assert done.stdout.strip() == name
    assert "nosuch" in done.stderr


def test_rm_on_exit_leaves_nothing(pe: Pe) -> None:
    pe("run", "--rm", *NONE, "--name", "brief", "host:base", "true", check=True)
    assert pe("inspect", "brief").returncode != 0


def test_a_name_is_free_again_after_rm_and_not_before(pe: Pe, start: Start) -> None:
    start(*NONE, "--name", "taken", "host:base", "true")
    second = pe("create", *NONE, "--name", "taken", "host:base", "true")
    assert second.returncode == 125
    assert "taken" in second.stderr
    pe("rm", "-f", "taken", check=True)
    start(*NONE, "--name", "taken", "host:base", "true")


def test_rename_keeps_everything_else(pe: Pe, start: Start) -> None:
    name = start(*NONE, "--name", "before", *FOREVER)
    pe("rename", "before", "after", check=True)
    assert inspect(pe, "after")["Id"] == name
    assert pe("inspect", "before").returncode != 0
    assert pe("exec", "after", "echo", "same", check=True).stdout == "same\n"


def test_an_id_can_be_shortened(pe: Pe, start: Start) -> None:
    name = start(*NONE, *FOREVER)
    assert inspect(pe, name[:8])["Id"] == name


def test_a_detached_container_outlives_the_session_that_started_it(pe: Pe, start: Start) -> None:
    # A session leader that ends sends SIGHUP to its group; see setsid(2), credentials(7).
    line = " ".join(pe.command("run", "-d", *NONE, "--name", "outlive", *FOREVER))
    subprocess.run(["setsid", "--wait", "sh", "-c", line], env=pe.environ, check=True, stdout=subprocess.DEVNULL)
    try:
        assert status(pe, "outlive") == "running"
        assert pe("exec", "outlive", "echo", "alive", check=True).stdout == "alive\n"
    finally:
        pe("rm", "-f", "outlive")


# --- pause -------------------------------------------------------------------------------------------------


def test_a_paused_container_does_nothing_until_it_goes_on(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "while :; do date +%N > /tick; sleep 0.02; done")
    read = Path(f"/proc/{inspect(pe, name)['State']['Pid']}/root/tick").read_text
    eventually(lambda: pe("exec", name, "cat", "/tick").stdout)
    pe("pause", name, check=True)
    frozen = read()
    assert stands_still(read)
    assert status(pe, name) == "paused"
    assert "Paused" in pe("ps").stdout
    assert pe("exec", name, "true").returncode != 0
    pe("unpause", name, check=True)
    eventually(lambda: read() != frozen)
    assert status(pe, name) == "running"


def test_a_paused_container_can_be_stopped_and_removed(pe: Pe, start: Start) -> None:
    polite = start(*NONE, "host:base", "sh", "-c", POLITE)
    wait_for_log(pe, polite, "up")
    pe("pause", polite, check=True)
    pe("stop", "-t", "5", polite, check=True)
    assert inspect(pe, polite)["State"]["ExitCode"] == 4
    killed = start(*NONE, *FOREVER)
    pe("pause", killed, check=True)
    pe("rm", "-f", killed, check=True)


# --- looking -----------------------------------------------------------------------------------------------


def test_ps_lists_running_ones_and_all_with_their_state(pe: Pe, start: Start) -> None:
    running = start(*NONE, "--name", "runs", "-l", "role=web", *FOREVER)
    ended = start(*NONE, "--name", "ended", "host:base", "sh", "-c", "exit 3")
    pe("wait", ended, check=True)
    assert pe("ps", "-q", "--no-trunc", check=True).stdout.split() == [running]
    table = pe("ps", "-a", check=True).stdout
    assert re.search(r"runs", table)
    assert "Exited (3)" in table
    rows = [json.loads(line) for line in pe("ps", "-a", "--format", "json", check=True).stdout.splitlines()]
    assert {row["Names"]: row["State"] for row in rows} == {"runs": "running", "ended": "exited"}
    assert pe("ps", "-aq", "--no-trunc", "--filter", "label=role=web", check=True).stdout.split() == [running]
    assert pe("ps", "--format", "{{.Names}}:{{.Image}}", check=True).stdout == "runs:host:base\n"


def test_inspect_shows_what_was_asked_and_what_is(pe: Pe, start: Start) -> None:
    flags = ("-e", "A=b", "-l", "key=value", "-m", "64m", "-w", "/tmp", "-h", "box", "--read-only")
    name = start(*NONE, *flags, *FOREVER)
    found = inspect(pe, name)
    assert found["Id"] == name
    assert [found["Path"], *found["Args"]] == ["sleep", "1000"]
    assert found["State"]["Running"] is True
    assert Path(f"/proc/{found['State']['Pid']}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert "A=b" in found["Config"]["Env"]
    assert found["Config"]["Labels"]["key"] == "value"
    assert found["Config"]["Hostname"] == "box"
    assert found["HostConfig"]["Memory"] == 64 << 20
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    template = pe("inspect", "--format", "{{.State.Status}} {{json .Config.WorkingDir}}", name, check=True)
    assert template.stdout == 'running "/tmp"\n'


def test_top_lists_the_processes_with_their_pids_on_the_host(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "sleep 999 & sleep 998")
    lines = eventually(lambda: (found := pe("top", name, check=True).stdout.splitlines())[3:] and found)
    assert lines[0].split()[:2] == ["UID", "PID"]
    commands = {line.split()[1]: line for line in lines[1:]}
    assert {"sleep 999", "sleep 998"} <= {" ".join(line.split()[-2:]) for line in commands.values()}
    assert all(Path(f"/proc/{pid}").exists() for pid in commands)


def test_stats_shows_use_and_limit(pe: Pe, start: Start) -> None:
    name = start(*NONE, "-m", "64m", "--pids-limit", "20", "host:base", "sh", "-c", "sleep 999 & sleep 998")
    row = json.loads(pe("stats", "--no-stream", "--format", "json", name, check=True).stdout)
    assert row["ID"] == name[:12]
    used, limit = row["MemUsage"].split(" / ")
    assert limit == "64MiB"
    assert re.fullmatch(r"[\d.]+[KM]iB", used)
    assert row["PIDs"] == "3"
    assert row["CPUPerc"].endswith("%")


def test_diff_names_what_was_added_changed_and_deleted(pe: Pe, start: Start) -> None:
    script = "echo new > /added; echo more >> /etc/passwd; rm /etc/group; mkdir /home; : > /home/file"
    name = start(*NONE, "host:base", "sh", "-c", script)
    pe("wait", name, check=True)
    lines = pe("diff", name, check=True).stdout.splitlines()
    assert {"A /added", "C /etc", "C /etc/passwd", "D /etc/group", "A /home/file"} <= set(lines)


def test_cidfile_holds_the_id_and_is_never_overwritten(pe: Pe, start: Start, tmp_path: Path) -> None:
    name = start(*NONE, "--cidfile", str(tmp_path / "cid"), *FOREVER)
    assert (tmp_path / "cid").read_text() == name
    second = pe("run", "--rm", *NONE, "--cidfile", str(tmp_path / "cid"), "host:base", "true")
    assert second.returncode != 0
    assert str(tmp_path / "cid") in second.stderr
    assert (tmp_path / "cid").read_text() == name


@pytest.mark.parametrize("policy", ["missing", "always", "never"])
def test_an_image_of_the_store_runs_under_every_pull_policy_that_needs_no_registry(pe: Pe, policy: str) -> None:
    pe("run", "--rm", *NONE, "host:base", "true", check=True)
    assert pe("run", "--rm", *NONE, "--pull", policy, "host:base", "echo", policy, check=True).stdout == f"{policy}\n"


# --- logs --------------------------------------------------------------------------------------------------


def test_logs_keep_both_streams_of_a_detached_container(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "echo out; echo err >&2; printf 'no newline'")
    pe("wait", name, check=True)
    done = pe("logs", name, check=True)
    assert (done.stdout, done.stderr) == ("out\nno newline", "err\n")


def test_logs_can_be_cut_and_dated(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "seq", "1", "1000")
    pe("wait", name, check=True)
    assert pe("logs", "--tail", "2", name, check=True).stdout == "999\n1000\n"
    assert pe("logs", "-n", "0", name, check=True).stdout == ""
    dated = pe("logs", "-t", "--tail", "1", name, check=True).stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z 1000\n", dated)


def test_followed_logs_come_at_once_and_end_with_the_container(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "echo first; read x < /pipe; echo last; exit 0")
    pe("exec", name, "mkfifo", "/pipe")
    with pe.popen("logs", "-f", name, stdout=subprocess.PIPE) as viewer:
        assert viewer.stdout is not None
        assert viewer.stdout.readline() == "first\n"
        pe("rm", "-f", name)
        assert viewer.wait(timeout=PATIENCE_S) == 0


def test_attach_sees_what_comes_and_returns_the_exit_code(pe: Pe, start: Start) -> None:
    name = start(*NONE, "-i", "host:base", "sh", "-c", "read line; echo heard $line; exit 8")
    done = pe("attach", name, input="me\n")
    assert (done.stdout, done.returncode) == ("heard me\n", 8)


def test_two_attached_viewers_see_the_same(pe: Pe, start: Start) -> None:
    script = "while :; do echo tick; sleep 0.1; done & read line; kill $!; wait; seq 1 3"
    name = start(*NONE, "-i", "host:base", "sh", "-c", script)
    viewers = [pe.popen("attach", "--no-stdin", name, stdout=subprocess.PIPE) for _ in range(2)]
    for viewer in viewers:
        assert viewer.stdout is not None
        assert viewer.stdout.readline() == "tick\n", "it is attached"
    pe("attach", name, input="go\n", check=True)
    outputs = [viewer.communicate(timeout=PATIENCE_S)[0].replace("tick\n", "") for viewer in viewers]
    assert outputs == ["1\n2\n3\n"] * 2
