"""What commands say, and what they do when nobody can hear it."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import Pe
from tests.system.conftest import Start, eventually
from tests.waiting import PATIENCE_S

NONE = ("--net", "none")

# Every command that prints; each in words that print something.
PRINTING = (
    ("--version",),
    ("--help",),
    ("run", "--help"),
    ("ps", "-a"),
    ("ps", "-aq"),
    ("images",),
    ("logs", "BOX"),
    ("logs", "-f", "--tail", "1", "ENDED"),
    ("inspect", "BOX"),
    ("diff", "BOX"),
    ("top", "BOX"),
    ("port", "BOX"),
    ("stats", "--no-stream"),
    ("exec", "BOX", "echo", "heard"),
    ("create", "--net", "none", "host:base", "true"),
    ("run", "--rm", "--net", "none", "host:base", "echo", "heard"),
    ("run", "--dry-run", "--net", "none", "host:base", "true"),
    ("volume", "ls"),
    ("network", "ls"),
    ("drivers",),
    ("info",),
    ("version",),
)


@pytest.fixture
def boxes(pe: Pe, start: Start) -> Iterator[dict[str, str]]:
    """A running container that has written much and changed something, and one that has ended."""
    script = "touch /new; i=0; while [ $i -lt 3000 ]; do echo line $i of the log; i=$((i+1)); done; exec sleep 1000"
    box = start(*NONE, "host:base", "sh", "-c", script)
    ended = start(*NONE, "host:base", "echo", "done")
    eventually(lambda: "line 2999" in pe("logs", "--tail", "1", box).stdout)
    pe("wait", ended, check=True)
    before = set(pe("ps", "-aq", "--no-trunc").stdout.split())
    yield {"BOX": box, "ENDED": ended}
    made = set(pe("ps", "-aq", "--no-trunc").stdout.split()) - before
    if made:
        pe("rm", "-f", *made, check=True)


def test_a_full_disk_takes_a_line_and_a_code_from_every_command(pe: Pe, boxes: dict[str, str]) -> None:
    for words in PRINTING:
        line = [boxes.get(word, word) for word in words]
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                pe.command(*line), stdout=full, stderr=subprocess.PIPE, env=pe.environ, text=True, check=False
            )
        if "no such" in done.stderr.lower() and done.returncode == 2:
            pytest.fail(f"{words}: {done.stderr}")
        silent = words == ("port", "BOX") and done.returncode == 0  # nothing is published
        assert silent or (done.returncode != 0 and "no space left on device" in done.stderr.lower()), (words, done)
        assert "Traceback" not in done.stderr, words
        assert len([text for text in done.stderr.splitlines() if text.startswith("pe: ")]) <= 1, (words, done.stderr)


def test_control_characters_of_file_names_do_not_reach_the_terminal(pe: Pe, start: Start) -> None:
    name = start(*NONE, "host:base", "sh", "-c", "touch \"/$(printf 'evil\\033[2J\\nA forged')\"; exec sleep 1000")
    eventually(lambda: "evil" in pe("diff", name).stdout)
    assert pe("diff", name, check=True).stdout == "A /evil\\x1b[2J\\nA forged\n"


def test_control_characters_in_messages_do_not_reach_the_terminal(pe: Pe) -> None:
    for words in (("run", "--rm", *NONE, "host:base", "no\033[2Jsuch"), ("run", "--rm", *NONE, "no\033[2Jimage")):
        done = pe(*words)
        assert done.returncode != 0
        assert "\033" not in done.stderr
        assert "no\\x1b[2J" in done.stderr


def test_labels_on_a_terminal_are_without_control_characters(pe: Pe, start: Start) -> None:
    name = start(*NONE, "-l", "a=b\033[2Jc", "host:base", "sleep", "1000")
    words = ("ps", "--format", "{{.Labels}}", "--filter", f"id={name}")
    assert pe(*words, check=True).stdout == "a=b\033[2Jc\n", "programs get what there is"
    ours, theirs = pty.openpty()
    with subprocess.Popen(pe.command(*words), stdout=theirs, env=pe.environ) as shown:
        os.close(theirs)
        assert shown.wait(timeout=PATIENCE_S) == 0
        seen = os.read(ours, 1 << 16)
        os.close(ours)
    assert seen == b"a=b\\x1b[2Jc\r\n"
