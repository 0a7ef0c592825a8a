"""Many at once: none is lost, none meets another's address, all of it goes again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pe
from tests.system.conftest import eventually
from tests.system.images import archives
from tests.system.kills import COLD, popen, process_named, rows
from tests.unit.images.tars import make_tar, member
from tests.waiting import PATIENCE_S

CROWD = 50
# Three of five are as everybody's; the others differ in storage or network.
KINDS = (
    ("--storage", "overlay", "--net", "bridge"),
    ("--storage", "fuse_union", "--net", "none"),
    ("--storage", "overlay", "--net", "bridge"),
    ("--storage", "overlay", "--net", "none"),
    ("--storage", "fuse_union", "--net", "bridge"),
)


def all_at_once(started: list[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Wait for all and return what each wrote; each must have ended well."""
    done = [(process, *process.communicate(timeout=PATIENCE_S)) for process in started]
    failed = [(process.args, process.returncode, errors) for process, _, errors in done if process.returncode != 0]
    assert not failed
    return [(output, errors) for _, output, errors in done]


def piped(pe: Pe, *words: str) -> subprocess.Popen[str]:
    return popen(pe, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_fifty_containers_started_at_once_all_run_with_addresses_of_their_own(
    pe: Pe, capsys: pytest.CaptureFixture[str]
) -> None:
    pe("run", "--rm", "--net", "none", "host:base", "true", check=True)
    eventually(lambda: process_named(pe, "pe-warm"))
    began = time.monotonic()
    names = [
        output.strip()
        for output, _ in all_at_once(
            [
                piped(
                    pe, "run", "-d", *KINDS[number % len(KINDS)], "host:base", "sh", "-c", "hostname; exec sleep 1000"
                )
                for number in range(CROWD)
            ]
        )
    ]
    started = time.monotonic() - began
    try:
        assert len(set(names)) == CROWD
        assert {rows(pe)[name] for name in names} == {"running"}
        found = json.loads(pe("inspect", *names, check=True).stdout)
        addresses = [address for each in found if (address := each["NetworkSettings"]["IPAddress"])]
        expected = sum("bridge" in KINDS[number % len(KINDS)] for number in range(CROWD))
        assert len(addresses) == len(set(addresses)) == expected
        for each in found:
            assert pe("logs", each["Id"], check=True).stdout.strip() == each["Id"][:12], "each ran what it was told"
    finally:
        began = time.monotonic()
        all_at_once([piped(pe, "rm", "-f", *names[first::5]) for first in range(5)])
        removed = time.monotonic() - began
    with capsys.disabled():
        sys.stdout.write(f"\n{CROWD} containers: started in {started:.1f} s, removed in {removed:.1f} s\n")


@pytest.mark.slow
def test_fifty_containers_that_come_and_go_at_once_all_give_their_code_and_output(pe: Pe) -> None:
    started = [
        piped(pe, "run", "--rm", *KINDS[number % len(KINDS)], "host:base", "echo", str(number))
        for number in range(CROWD)
    ]
    assert [output for output, _ in all_at_once(started)] == [f"{number}\n" for number in range(CROWD)]


@pytest.mark.slow
def test_a_crowd_on_a_fresh_machine_makes_the_image_once(tmp_path: Path) -> None:
    fresh = Pe(tmp_path / "root", tmp_path / "run")
    started = [
        popen(
            fresh,
            *("run", "--rm", "--net", "none", "host:base", "echo", str(number)),
            environ=COLD,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(8)
    ]
    try:
        assert [output for output, _ in all_at_once(started)] == [f"{number}\n" for number in range(8)]
        assert len(fresh("images", "-q", check=True).stdout.split()) == 1
    finally:
        fresh("system", "reset", "--force", check=True)


def test_twenty_commands_in_one_container_at_once_all_answer(pe: Pe, start: Callable[..., str]) -> None:
    name = start("--net", "none", "host:base", "sleep", "1000")
    started = [piped(pe, "exec", name, "sh", "-c", f"echo {number}; exit 0") for number in range(20)]
    assert [output for output, _ in all_at_once(started)] == [f"{number}\n" for number in range(20)]
    assert len(pe("top", name, check=True).stdout.splitlines()) == 2, "only the first process is left"


def test_the_same_image_loaded_eight_times_at_once_is_there_once(pe: Pe, tmp_path: Path) -> None:
    layer = make_tar([member("etc", "directory"), member("etc/crowd", content=b"x" * 1_000_000)])
    archive = tmp_path / "image.tar"
    archive.write_bytes(archives.pack(archives.docker_parts(layer, tags=["crowd:1"])))
    try:
        outputs = {output for output, _ in all_at_once([piped(pe, "load", "-i", str(archive)) for _ in range(8)])}
        assert outputs == {"Loaded image: crowd:1\n"} or len(outputs) == 1
        assert pe("images", "-q", "crowd", check=True).stdout.count("\n") == 1
    finally:
        pe("rmi", "crowd:1", check=True)


def test_a_name_fought_for_by_many_is_got_by_one(pe: Pe) -> None:
    words = ("run", "-d", "--net", "none", "--name", "contested", "host:base", "sleep", "1000")
    started = [piped(pe, *words) for _ in range(8)]
    try:
        outcomes = [(process.communicate(timeout=PATIENCE_S)[1], process.returncode) for process in started]
        assert sorted(code for _, code in outcomes) == [0, *[125] * 7]
        assert all("contested: in use" in errors for errors, code in outcomes if code)
    finally:
        pe("rm", "-f", "contested", check=True)


def test_a_port_fought_for_by_many_is_got_by_one(pe: Pe) -> None:
    words = ("run", "-d", "--rm", "-p", "7301:7", "host:base", "sleep", "1000")
    started = [piped(pe, *words) for _ in range(8)]
    outcomes = [(*process.communicate(timeout=PATIENCE_S), process.returncode) for process in started]
    try:
        assert sorted(code for *_, code in outcomes) == [0, *[125] * 7]
        assert all("7301" in errors for _, errors, code in outcomes if code)
    finally:
        pe("rm", "-f", *[output.strip() for output, _, code in outcomes if code == 0], check=True)


@pytest.mark.slow
def test_stops_removals_and_looks_at_the_same_container_do_not_harm_each_other(pe: Pe) -> None:
    for _ in range(3):
        name = pe("run", "-d", "--net", "bridge", "host:base", "sleep", "1000", check=True).stdout.strip()
        words = [("stop", "-t", "0", name), ("rm", "-f", name), ("inspect", name), ("ps", "-a"), ("rm", "-f", name)]
        done = [(process, *process.communicate(timeout=PATIENCE_S)) for process in [piped(pe, *each) for each in words]]
        for process, _, errors in done:
            assert process.returncode in (0, 1), errors
            assert "Traceback" not in errors
        assert name not in rows(pe)
