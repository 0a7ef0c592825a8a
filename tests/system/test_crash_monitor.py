"""Kill -9 of a monitor, a file server, a first process, and of who repairs it all, at any moment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.conftest import Pe
from tests.system import kills
from tests.system.conftest import Start, eventually
from tests.system.kills import COLD, Ground, Neighbour, duration, kill_after, moments, popen, rows, state
from tests.waiting import PATIENCE_S

EVERYTHING = ("--storage", "fuse_union", "--net", "bridge", "-p", "7102:7", "--userns", "auto", "-v", "/v", "-m", "64m")
LONG = (*EVERYTHING, "host:base", "sleep", "1000")
REPAIR_POINTS = 10


@pytest.fixture
def neighbour(pe: Pe) -> Iterator[Neighbour]:
    """Somebody else's container."""
    yield from kills.neighbour(pe)


def steps_of(pe: Pe, *words: str) -> list[str]:
    """Return the lines `pe --debug run words…` logs, without those about the inside."""
    done = pe("--debug", "run", *words, check=True)
    return [line for line in done.stderr.splitlines() if not line.startswith("  ")]


def run_until(pe: Pe, number: int, *words: str) -> tuple[subprocess.Popen[str], str]:
    """Start `pe --debug run words…` and return when it begins its step of that number."""
    process = popen(pe, "--debug", "run", *words, stderr=subprocess.PIPE)
    assert process.stderr is not None
    seen = -1
    for line in process.stderr:
        seen += not line.startswith("  ")
        if seen == number:
            return process, line.strip()
    raise AssertionError(f"there is no step {number}")


def monitor_of_the_new(pe: Pe, before: set[int]) -> int:
    """Return the pid of the one monitor that was not there before; its children are called so until they run others."""

    def found() -> list[int]:
        named = set(kills.process_named(pe, "pe-monitor")) - before
        return sorted(pid for pid in named if not any(pid in kills.children(other) for other in named - {pid}))

    (monitor,) = eventually(found)
    return monitor


@pytest.mark.slow
def test_a_monitor_killed_at_any_step_of_a_run_leaves_nothing_and_the_caller_is_told(
    pe: Pe, neighbour: Neighbour
) -> None:
    words = ("--rm", *EVERYTHING, "host:base", "true")
    steps = steps_of(pe, *words)
    ground = Ground(pe)
    assert len(steps) > 12, "each step, and the undoing of each"
    monitors = set(kills.process_named(pe, "pe-monitor"))
    for number in range(len(steps)):
        process, step = run_until(pe, number, *words)
        for pid in set(kills.process_named(pe, "pe-monitor")) - monitors:
            kills.kill(pid)
        _, complaint = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (0, 125), complaint
        if process.returncode:
            assert "pe: monitor: ended" in complaint
            assert "hint: " in complaint
        ground.assert_clean(f"monitor killed at: {step}")
    neighbour.assert_well("after the last kill")


@pytest.mark.parametrize("words", [LONG, ("--net", "none", "host:base", "sleep", "1000")], ids=["all", "little"])
def test_a_monitor_killed_while_its_container_runs_ends_it_and_the_state_says_so(
    pe: Pe, neighbour: Neighbour, words: tuple[str, ...]
) -> None:
    ground = Ground(pe)
    name = pe("run", "-d", *words, check=True).stdout.strip()
    kills.kill(state(pe, name)["MonitorPid"])
    after = eventually(lambda: found if (found := state(pe, name))["Status"] == "exited" else None)
    assert after is not None
    assert (after["ExitCode"], after["Pid"]) == (137, 0)
    assert "monitor was killed" in after["Error"]
    assert set(ground.left()) <= {"rows", "directories", "run"}, "all but the container itself is gone"
    pe("start", name, check=True)
    assert pe("exec", name, "echo", "well", check=True).stdout == "well\n"
    ground.assert_clean("after the restart")
    neighbour.assert_well("after the kill")


def test_clients_of_a_monitor_that_is_killed_are_told(pe: Pe, start: Start) -> None:
    name = start("--net", "none", "-i", "host:base", "sleep", "1000")
    clients = {
        words[0]: popen(pe, *words, stderr=subprocess.PIPE, stdin=subprocess.PIPE)
        for words in (("attach", name), ("wait", name), ("exec", name, "sleep", "1000"))
    }
    eventually(lambda: len(pe("top", name, check=True).stdout.splitlines()) == 3)
    kills.kill(state(pe, name)["MonitorPid"])
    for verb, client in clients.items():
        _, complaint = client.communicate(timeout=PATIENCE_S)
        assert client.returncode != 0, verb
        assert complaint.startswith("pe: monitor: ended"), verb


def test_a_container_that_was_to_go_when_it_ends_goes_with_its_monitor(pe: Pe) -> None:
    ground = Ground(pe)
    name = pe("run", "-d", "--rm", *LONG, check=True).stdout.strip()
    kills.kill(state(pe, name)["MonitorPid"])
    pe("ps", check=True)
    eventually(lambda: name not in rows(pe))
    ground.assert_clean("after the next command")


def test_the_first_process_killed_from_outside_is_a_container_killed(pe: Pe, start: Start) -> None:
    name = start("--net", "none", "host:base", "sleep", "1000")
    kills.kill(state(pe, name)["Pid"])
    assert pe("wait", name, check=True).stdout == "137\n"
    after = state(pe, name)
    assert (after["Status"], after["ExitCode"], after["Error"]) == ("exited", 137, "")


def test_a_file_server_killed_ends_its_container_and_the_state_says_so(
    pe: Pe, start: Start, neighbour: Neighbour
) -> None:
    name = start(*LONG)
    watcher = popen(pe, "attach", name, stderr=subprocess.PIPE)
    kills.kill(state(pe, name)["ServerPid"])
    assert pe("wait", name, check=True, timeout=PATIENCE_S).stdout == "137\n"
    after = state(pe, name)
    assert (after["Status"], after["ExitCode"]) == ("exited", 137)
    assert after["Error"] == "storage server was killed by SIGKILL"
    _, complaint = watcher.communicate(timeout=PATIENCE_S)
    assert watcher.returncode in (125, 137), complaint
    pe("start", name, check=True)
    assert pe("exec", name, "echo", "well", check=True).stdout == "well\n"
    neighbour.assert_well("after the kill")


def _server(children: list[int]) -> list[int]:
    return children[:1]


def _first(children: list[int]) -> list[int]:
    return children[1:]  # the file server is the older child


@pytest.mark.parametrize(
    ("step", "victim"),
    [("start server", _server), ("make cgroup", _server), ("connect to network", _first), ("write /etc", _first)],
    ids=["the server before it serves", "the server", "the first process", "the first process, later"],
)
def test_a_child_of_the_monitor_killed_during_the_start_is_a_start_that_failed(
    pe: Pe, step: str, victim: Callable[[list[int]], list[int]]
) -> None:
    words = (*EVERYTHING, "--name", "unlucky", "host:base", "sleep", "1000")
    steps = steps_of(pe, "--rm", *EVERYTHING, "host:base", "true")
    eventually(lambda: not kills.process_named(pe, "pe-monitor"))
    ground = Ground(pe)
    process, _ = run_until(pe, next(i for i, line in enumerate(steps) if line.startswith(step)), *words)
    monitor = monitor_of_the_new(pe, set())
    for pid in eventually(lambda: victim(kills.children(monitor))):
        kills.kill(pid)
    try:
        _, complaint = process.communicate(timeout=PATIENCE_S)
        assert process.returncode in (125, 137), complaint
        eventually(lambda: rows(pe).popitem()[1] in ("created", "exited"))
        eventually(lambda: set(ground.left()) <= {"rows", "directories", "run"})
        if process.returncode == 125:
            assert "pe: " in complaint
            assert state(pe, "unlucky")["Error"]
    finally:
        ground.assert_clean(f"killed at {step}")


def has_exited(pe: Pe, name: str) -> bool:
    return rows(pe)[name] == "exited"


@pytest.mark.slow
def test_who_repairs_may_be_killed_too(pe: Pe, neighbour: Neighbour) -> None:
    took = duration(pe, "system", "check", "--repair", environ=COLD)
    ground = Ground(pe)
    for moment in moments(REPAIR_POINTS, took):
        name = pe("run", "-d", *LONG, check=True).stdout.strip()
        kills.kill(state(pe, name)["MonitorPid"])
        kill_after(popen(pe, "system", "check", "--repair", environ=COLD), moment)
        pe("ps", check=True)
        eventually(partial(has_exited, pe, name))
        ground.assert_clean(f"the repair killed after {moment:.3f} of {took:.3f} s")
    neighbour.assert_well("after the last kill")


@pytest.mark.slow
def test_everybody_killed_at_once_is_recovered_by_the_next_command(pe: Pe, neighbour: Neighbour) -> None:
    ground = Ground(pe)
    monitors = set(kills.process_named(pe, "pe-monitor"))
    made = [
        pe("run", "-d", "--net", net, "host:base", "sleep", "1000", check=True).stdout.strip()
        for net in ("none", "bridge", "bridge", "none")
    ]
    clients = [popen(pe, "run", "--rm", "--net", "bridge", "host:base", "true") for _ in range(4)]
    eventually(lambda: len(set(kills.process_named(pe, "pe-monitor")) - monitors) > len(made))
    for pid in set(kills.process_named(pe, "pe-monitor")) - monitors:
        kills.kill(pid)
    for client in clients:
        kills.kill(client.pid)
        client.wait(PATIENCE_S)
    pe("ps", check=True)
    eventually(lambda: {rows(pe)[name] for name in made} == {"exited"})
    ground.assert_clean("after the next command")
    neighbour.assert_well("after the kills")
