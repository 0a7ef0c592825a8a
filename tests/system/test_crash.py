"""Kill -9 of `pe` and of its prepared process at any moment: nothing is left, nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import Pe
from tests.system import kills
from tests.system.conftest import eventually
from tests.system.kills import COLD, Ground, Neighbour, duration, kill_after, moments, popen, rows
from tests.waiting import PATIENCE_S

PLAIN = ("run", "--rm", "--storage", "overlay", "--net", "bridge", "-p", "7100:7", "host:base", "true")
FUSE = ("run", "--rm", "--storage", "fuse_union", "--net", "none", "--userns", "auto", "-v", "/v", "host:base", "true")
LONG = ("--net", "bridge", "-p", "7101:7", "--storage", "fuse_union", "host:base", "sleep", "1000")
COLD_POINTS = 30
WARM_POINTS = 20
SERVER_POINTS = 8  # each needs a new prepared process, which takes a second to become one


@pytest.fixture
def neighbour(pe: Pe) -> Iterator[Neighbour]:
    """Somebody else's container."""
    yield from kills.neighbour(pe)


@pytest.mark.slow
@pytest.mark.parametrize("words", [PLAIN, FUSE], ids=["overlay and bridge", "fuse_union, user namespace and volume"])
def test_a_run_killed_at_any_moment_leaves_nothing(pe: Pe, words: tuple[str, ...]) -> None:
    took = duration(pe, *words, environ=COLD)
    ground = Ground(pe)
    for moment in moments(COLD_POINTS, took):
        kill_after(popen(pe, *words, environ=COLD), moment)
        ground.assert_clean(f"killed after {moment:.3f} of {took:.3f} s")


@pytest.mark.slow
def test_a_run_through_the_prepared_process_killed_at_any_moment_leaves_nothing(pe: Pe, neighbour: Neighbour) -> None:
    took = duration(pe, *PLAIN)
    ground = Ground(pe)
    for moment in moments(WARM_POINTS, took):
        kill_after(popen(pe, *PLAIN), moment)
        ground.assert_clean(f"killed after {moment:.3f} of {took:.3f} s")
    neighbour.assert_well("after the last kill")


@pytest.mark.slow
def test_the_prepared_process_killed_at_any_moment_leaves_nothing_and_is_replaced(pe: Pe, neighbour: Neighbour) -> None:
    took = duration(pe, *PLAIN)
    ground = Ground(pe)
    for moment in moments(SERVER_POINTS, took):
        eventually(lambda: pe("ps", "-q").returncode == 0 and kills.process_named(pe, "pe-warm"))
        client = popen(pe, *PLAIN)
        time.sleep(moment)
        for pid in kills.process_named(pe, "pe-warm"):
            kills.kill(pid)
        assert client.wait(PATIENCE_S) in (0, 125), (
            "the client ends, with the command's code or saying that it does not know"
        )
        ground.assert_clean(f"prepared process killed after {moment:.3f} of {took:.3f} s")
    neighbour.assert_well("after the last kill")
    eventually(lambda: pe("ps", "-q").returncode == 0 and kills.process_named(pe, "pe-warm"))


@pytest.mark.slow
def test_a_start_killed_at_any_moment_can_be_done_again(pe: Pe) -> None:
    name = pe("create", *LONG, check=True).stdout.strip()
    try:
        took = duration(pe, "restart", "-t", "0", name, environ=COLD)
        for moment in moments(COLD_POINTS // 2, took):
            pe("stop", "-t", "0", name, check=True)
            kill_after(popen(pe, "start", name, environ=COLD), moment)
            pe("ps", "-q", check=True)
            eventually(lambda: rows(pe)[name] != "starting")
            if rows(pe)[name] != "running":
                pe("start", name, check=True)
            assert pe("exec", name, "echo", "well", check=True).stdout == "well\n", f"killed after {moment:.3f} s"
    finally:
        pe("rm", "-f", name, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("stop", "-t", "0"), ("rm", "-f", "-v")], ids=" ".join)
def test_a_stop_or_rm_killed_at_any_moment_can_be_done_again(
    pe: Pe, neighbour: Neighbour, words: tuple[str, ...]
) -> None:
    ground = Ground(pe)
    took = 0.0
    for share in [1.0, 1.0, *moments(COLD_POINTS // 2, 1.0)]:  # the first two are undisturbed: how long it takes
        name = pe("run", "-d", "-v", "/data", *LONG, check=True).stdout.strip()
        began = time.monotonic()
        process = popen(pe, *words, name, environ=COLD)
        if share == 1.0:
            assert process.wait(PATIENCE_S) == 0
            took = time.monotonic() - began
        else:
            kill_after(process, share * took)
            again = pe(*words, name)
            assert again.returncode == 0 or "no such container" in again.stderr, again.stderr
            assert rows(pe).get(name) == ("exited" if words[0] == "stop" else None)
        ground.assert_clean(f"{words[0]} killed after {share * took:.3f} of {took:.3f} s")
    neighbour.assert_well("after the last kill")


@pytest.mark.slow
def test_an_exec_killed_at_any_moment_leaves_the_container_alone(pe: Pe) -> None:
    name = pe("run", "-d", *LONG, check=True).stdout.strip()
    try:
        took = duration(pe, "exec", name, "true", environ=COLD)
        for moment in moments(COLD_POINTS // 2, took):
            kill_after(popen(pe, "exec", name, "true", environ=COLD), moment)
            assert pe("exec", name, "echo", "well", check=True).stdout == "well\n", f"killed after {moment:.3f} s"
        eventually(lambda: len(pe("top", name, check=True).stdout.splitlines()) == 2)  # a heading and sleep
    finally:
        pe("rm", "-f", name, check=True)
