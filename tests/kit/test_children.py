"""The processes of a case: they answer, know nothing of later, and die at the step they are told to."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest

from plugengine.kernel.uts import sethostname
from plugengine.testing import Failure
from plugengine.testing.children import OtherProcess, all_at_once, count_steps, in_child, kill_at_step, spread


def test_a_child_answers_with_what_the_function_returns() -> None:
    assert in_child(lambda: [os.getppid(), "parent"]) == [os.getpid(), "parent"]


def test_what_a_child_raises_is_raised_here() -> None:
    with pytest.raises(Failure, match="ValueError: 7 is odd"):
        in_child(lambda: _raise(ValueError("7 is odd")))


def _raise(error: Exception) -> None:
    raise error


def test_a_child_that_dies_without_an_answer_is_a_failure() -> None:
    with pytest.raises(Failure, match="ended with -9 before it answered"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_may_leave_processes_that_hold_its_pipe() -> None:
    def leave_one() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    left = in_child(leave_one)
    assert os.path.exists(f"/proc/{left}"), "it answered, though this one is alive"
    os.kill(left, signal.SIGKILL)


def test_a_stranger_knows_only_what_it_is_told() -> None:
    known = ["before"]
    with OtherProcess(lambda told: [*known, told]) as stranger:
        known.append("after")
        assert stranger.call("told") == ["before", "told"]


def test_a_stranger_nobody_calls_is_killed() -> None:
    with OtherProcess(lambda told: told) as stranger:
        pid = stranger.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_all_at_once_returns_every_answer_in_order_or_says_how_many_failed() -> None:
    assert all_at_once([partial(str, number) for number in range(20)]) == [str(number) for number in range(20)]
    with pytest.raises(Failure, match="2 of 3 at once: ValueError: no"):
        all_at_once([lambda: 1, *[lambda: _raise(ValueError("no"))] * 2])


def test_a_verb_is_killed_before_each_of_its_steps_in_turn(tmp_path: Path) -> None:
    names = ["one", "two", "three"]

    def make() -> None:
        for name in names:
            os.mkdir(tmp_path / name)

    total = count_steps(make)
    assert total == len(names)
    for step in range(1, total + 1):
        for name in os.listdir(tmp_path):
            os.rmdir(tmp_path / name)
        assert kill_at_step(make, step)
        assert sorted(os.listdir(tmp_path)) == sorted(names[: step - 1])
    assert not kill_at_step(lambda: None, 1)


def test_calls_through_the_kernels_door_and_of_sockets_are_steps() -> None:
    one, other = socket.socketpair()

    def act() -> None:
        one.send(b"x")
        with pytest.raises(OSError, match=r"Invalid argument|not permitted"):
            sethostname(b"x" * 1000)

    assert count_steps(act) >= 2
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("total", "most", "expected"),
    [
        pytest.param(0, 5, [], id="none"),
        pytest.param(3, 5, [1, 2, 3], id="all"),
        pytest.param(100, 5, [1, 26, 51, 75, 100], id="spread"),
    ],
)
def test_steps_are_spread_over_all(total: int, most: int, expected: list[int]) -> None:
    assert spread(total, most) == expected
