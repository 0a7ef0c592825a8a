"""What `pe` says about containers, and does with several of them at once."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S, stands_still

QUIET = ("--net", "none")
SLEEP = ("host:base", "sleep", "600")
OOM_KILLED = 137


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def test_ps_shows_those_that_run_and_with_all_the_others_too(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "up", "-l", "team=web", *SLEEP)
    start(*QUIET, "--name", "down", "host:base", "sh", "-c", "exit 3")
    pe("wait", "down", check=True)
    heading, *rows = lines(pe("ps", check=True).stdout)
    assert heading.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert [row.split()[-1] for row in rows] == ["up"]
    assert re.search(r'host:base +"sleep 600" .* ago +Up ', rows[0])
    everyone = pe("ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}", check=True).stdout
    assert "down exited Exited (3) " in everyone
    assert "up running Up " in everyone
    assert lines(pe("ps", "-aq", "--no-trunc", "-f", "label=team=web", check=True).stdout) == [
        json.loads(pe("inspect", "up", check=True).stdout)[0]["Id"]
    ]
    assert lines(pe("ps", "--filter", "exited=3", "--format", "{{.Names}}", check=True).stdout) == ["down"]
    assert lines(pe("ps", "-l", "--format", "{{.Names}}", check=True).stdout) == ["down"]
    assert len(lines(pe("ps", "-n", "2", "-q", check=True).stdout)) == 2


def test_ps_shows_drivers_and_sizes_when_asked(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "sized", "host:base", "sh", "-c", "head -c 3000000 /dev/zero > /big; sleep 600")
    eventually(lambda: "3MB" in pe("ps", "-s", check=True).stdout)
    assert ",none,v" in pe("ps", "--drivers", check=True).stdout
    row = json.loads(pe("ps", "--format", "json", "-f", "name=sized", check=True).stdout)
    assert (row["Networks"], row["Names"]) == ("none", "sized")


def test_inspect_shows_what_there_is_and_fails_for_what_is_not(pe: Pe, start: Start) -> None:
    container = start(*QUIET, "--name", "seen", "-e", "A=b", *SLEEP)
    done = pe("inspect", "seen", "unseen", "host:base")
    found = json.loads(done.stdout)
    assert [each["Id"][:12] for each in found if "State" in each] == [container[:12]]
    assert len(found) == 2
    assert done.returncode == 1
    assert done.stderr.startswith("pe: object unseen: no such container, image or volume")
    assert "A=b" in found[0]["Config"]["Env"]
    text = pe("inspect", "-f", "{{.Name}} {{.State.Status}} {{json .State.Running}}", "seen", check=True).stdout
    assert text == "/seen running true\n"
    assert "Cmd" in json.loads(pe("inspect", "--type", "image", "host:base", check=True).stdout)[0]["Config"]
    assert pe("inspect", "--type", "image", "seen").returncode == 1
    assert "did you mean .State?" in pe("inspect", "-f", "{{.Stat}}", "seen").stderr


def test_logs_keep_the_streams_apart_and_know_times(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "wordy", "host:base", "sh", "-c", "echo one; echo two >&2; echo three; sleep 600")
    eventually(lambda: pe("logs", "wordy", check=True).stdout.count("\n") == 2)
    done = pe("logs", "wordy", check=True)
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    last = pe("logs", "-n", "1", "wordy", check=True)
    assert last.stdout + last.stderr in ("two\n", "three\n")  # two pipes have no order
    assert pe("logs", "--tail=all", "wordy", check=True).stdout == "one\nthree\n"
    assert pe("logs", "--since", "2030-01-01", "wordy", check=True).stdout == ""
    assert pe("logs", "--until", "1h", "wordy", check=True).stdout == ""
    assert pe("logs", "--since", "1h", "wordy", check=True).stdout == "one\nthree\n"
    stamped = lines(pe("logs", "-t", "wordy", check=True).stdout)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z \w+", line) for line in stamped)
    assert pe("logs", "--since", stamped[1].split()[0], "wordy", check=True).stdout == "three\n"


def test_followed_logs_end_with_the_container(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "brief", "host:base", "sh", "-c", "echo one; sleep 0.5; echo two")
    assert pe("logs", "-f", "brief", check=True, timeout=PATIENCE_S).stdout == "one\ntwo\n"


def test_several_names_are_done_one_by_one_and_one_failure_is_1(pe: Pe, start: Start) -> None:
    for name in ("first", "second"):
        start(*QUIET, "--name", name, *SLEEP)
    done = pe("stop", "-t", "0", "first", "nobody", "second")
    assert done.stdout == "first\nsecond\n"
    assert done.stderr.startswith("pe: container nobody: no such container")
    assert done.returncode == 1
    done = pe("wait", "first", "second")
    assert (done.returncode, done.stdout) == (0, "137\n137\n")
    done = pe("rm", "first", "nobody", "second")
    assert (done.returncode, done.stdout) == (1, "first\nsecond\n")
    done = pe("rm", "-f", "nobody")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no such container" in done.stderr


def test_a_container_is_created_started_restarted_killed_and_removed(pe: Pe) -> None:
    container = pe("create", *QUIET, "--name", "steps", *SLEEP, check=True).stdout.strip()
    try:
        assert re.fullmatch(r"[0-9a-f]{64}", container)
        assert pe("start", "steps", check=True).stdout == "steps\n"
        assert pe("restart", "-t", "0", container[:12], check=True).stdout == f"{container[:12]}\n"
        assert "is running" in pe("rm", "steps").stderr
        assert pe("kill", "-s", "KILL", "steps", check=True).stdout == "steps\n"
        assert pe("wait", "steps", check=True).stdout == "137\n"
        assert pe("rename", "steps", "renamed").returncode == 0
        assert "Exited (137)" in pe("ps", "-a", "-f", "name=renamed", check=True).stdout
    finally:
        assert pe("rm", "-f", container).returncode == 0


def test_start_connects_when_asked_and_passes_the_code_on(pe: Pe) -> None:
    container = pe("create", *QUIET, "-i", "host:base", "sh", "-c", "cat; exit 5", check=True).stdout.strip()
    try:
        done = pe("start", "-ai", container, input="typed\n")
        assert (done.returncode, done.stdout) == (5, "typed\n")
    finally:
        pe("rm", "-f", container)
    assert pe("start", "-a", "one", "two").returncode == 2


def test_exec_passes_words_variables_input_and_code_on(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "host", *SLEEP)
    done = pe("exec", "-i", "-e", "A=b", "-w", "/tmp", "host", "sh", "-c", "cat; echo $A $PWD; exit 9", input="in\n")
    assert (done.returncode, done.stdout) == (9, "in\nb /tmp\n")
    assert pe("exec", "host", "nosuch").returncode == 127
    assert pe("exec", "host", "/etc/passwd").returncode == 126
    assert pe("exec", "-d", "host", "touch", "/made").returncode == 0
    eventually(lambda: pe("exec", "host", "test", "-e", "/made").returncode == 0)
    assert "A /made\n" in pe("diff", "host", check=True).stdout


def test_top_and_stats_see_the_processes(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "busy", "-m", "256m", "host:base", "sh", "-c", "while :; do :; done")
    heading, row = lines(pe("top", "busy", check=True).stdout)
    assert heading.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert row.endswith("sh -c while :; do :; done")
    usage = json.loads(pe("stats", "--no-stream", "--format", "json", "busy", check=True).stdout)
    assert float(usage["CPUPerc"].rstrip("%")) > 0
    assert usage["MemUsage"].endswith(" / 256MiB")
    assert usage["PIDs"] == "1"
    assert "busy" in pe("stats", "--no-stream", check=True).stdout
    pe("rm", "-f", "busy", check=True)
    assert pe("top", "busy").returncode == 125


def test_pause_stops_the_clock_and_unpause_starts_it_again(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "ticker", "host:base", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
    eventually(lambda: "tick" in pe("logs", "ticker").stdout)
    assert pe("pause", "ticker", check=True).stdout == "ticker\n"
    assert "(Paused)" in pe("ps", check=True).stdout
    eventually(lambda: stands_still(lambda: pe("logs", "ticker", check=True).stdout))  # what is in the pipe still comes
    before = pe("logs", "ticker", check=True).stdout
    assert pe("unpause", "ticker", check=True).stdout == "ticker\n"
    eventually(lambda: len(pe("logs", "ticker").stdout) > len(before))


def test_a_foreground_container_killed_at_its_limit_says_so(pe: Pe) -> None:
    done = pe(
        "run", "--rm", *QUIET, "--name", "hog", "-m", "64m", "--memory-swap", "64m", "host:base", "tail", "/dev/zero"
    )
    assert done.returncode == OOM_KILLED
    assert (
        "pe: container hog: out of memory: killed at its limit of 64MiB\nhint: give it more with --memory"
        in done.stderr
    )


def test_the_id_is_written_to_a_new_file_or_nowhere(pe: Pe, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    container = pe("create", *QUIET, "--cidfile", str(file), *SLEEP, check=True).stdout.strip()
    assert file.read_text() == container
    done = pe("create", *QUIET, "--cidfile", str(file), *SLEEP)
    assert done.returncode == 2
    assert f"--cidfile {file}: exists" in done.stderr
    pe("rm", container, check=True)
    assert pe("create", "--cidfile", str(tmp_path / "other"), "no-such-image").returncode == 125
    assert not (tmp_path / "other").exists()


def test_a_dry_run_prints_the_steps_and_takes_none(pe: Pe) -> None:
    before = pe("ps", "-aq", check=True).stdout
    steps = pe("run", "--dry-run", "-d", *QUIET, "-m", "64m", "host:base", "echo", "hi", check=True).stdout
    assert "overlay" in steps or "fuse" in steps
    assert "memory" in steps
    assert "echo hi" in steps
    assert pe("ps", "-aq", check=True).stdout == before


def test_debug_logs_the_steps_as_they_run(pe: Pe) -> None:
    quiet = pe("run", "--rm", *QUIET, "host:base", "true", check=True)
    loud = pe("--debug", "run", "--rm", *QUIET, "host:base", "true", check=True)
    assert quiet.stderr == ""
    assert len(lines(loud.stderr)) > 5
    failed = pe("--debug", "run", "--rm", *QUIET, "host:base", "nosuch")
    assert "Traceback" in failed.stderr
    assert "CommandNotFoundError" in failed.stderr


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("run", "no-such-image"), "image no-such-image", ""),
        (
            ("run", "--storage", "overlai", "host:base"),
            "storage driver overlai: not installed",
            "did you mean overlay?",
        ),
        (("run", "--net", "nones", "host:base"), "network nones: neither a network", "did you mean none?"),
        (("run", "--net", "none", "-p", "80:80", "host:base"), "--publish: network driver none", ""),
        (("stop", "nobody"), "container nobody: no such container", ""),
        (("exec", "nobody", "true"), "container nobody: no such container", ""),
        (("rmi", "no-such-image"), "image no-such-image", ""),
        (("run", "--net", "container:nobody", "host:base"), "container nobody: no such container", ""),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_not_there_is_named(pe: Pe, words: tuple[str, ...], message: str, hint: str) -> None:
    done = pe(*words)
    assert done.returncode in (1, 125)
    assert message in done.stderr.splitlines()[0]
    assert hint in done.stderr
    pe("rm", "-f", *lines(pe("ps", "-aq", "-f", "status=created").stdout))


def test_published_ports_are_listed(pe: Pe, start: Start) -> None:
    start("--name", "web", "-p", "127.0.0.1:18080:80", "-p", "53:53/udp", *SLEEP)
    assert pe("port", "web", check=True).stdout == "53/udp -> 0.0.0.0:53\n80/tcp -> 127.0.0.1:18080\n"
    assert pe("port", "web", "80", check=True).stdout == "127.0.0.1:18080\n"
    assert "not published" in pe("port", "web", "81").stderr
    assert "127.0.0.1:18080->80/tcp" in pe("ps", check=True).stdout


def test_limits_this_host_cannot_hold_are_said_and_kept(pe: Pe, start: Start) -> None:
    said = pe("run", "-d", *QUIET, "--name", "weighed", "--blkio-weight", "500", *SLEEP, check=True).stderr
    try:
        kept = json.loads(pe("inspect", "-f", "{{json .Warnings}}", "weighed", check=True).stdout)
        assert said == "".join(f"pe: warning: {warning}\n" for warning in kept)
        assert all(warning.startswith("--blkio-weight: ") for warning in kept)
        foreground = pe("run", "--rm", *QUIET, "--blkio-weight", "500", "host:base", "true", check=True)
        assert foreground.stderr == said
    finally:
        pe("rm", "-f", "weighed")


def test_stats_draw_again_on_a_terminal_until_interrupted(pe: Pe, start: Start) -> None:
    start(*QUIET, "--name", "drawn", *SLEEP)
    pid, fd = pty.fork()
    if pid == 0:
        command = pe.command("stats", "drawn")
        os.execve(command[0], command, pe.environ)
    seen = b""
    while seen.count(b"\033[H") < 2:
        seen += os.read(fd, 4096)
    assert b"drawn" in seen
    os.kill(pid, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(fd)
