"""A call that takes too long is ended in every thread, and one that ends in time is as if nobody had watched it."""

from __future__ import annotations

import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugengine.plugins.deadlines import Expired, within
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.timeout(method="thread")  # the other method has a handler of SIGALRM
LIMIT_S = 0.2


def in_main(work: Callable[[], Any]) -> Any:
    return work()


def in_another(work: Callable[[], Any]) -> Any:
    """Run in a thread; return or raise what came of it."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((work(), None))
        except BaseException as exc:  # noqa: BLE001 - raised again below
            found.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    value, error = found[0]
    if error is not None:
        raise error
    return value


@pytest.fixture(params=[in_main, in_another])
def place(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Where the call is made: the main thread, where signals arrive, or another one."""
    found: Callable[[Callable[[], Any]], Any] = request.param
    return found


@pytest.fixture
def handled_alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    yield
    signal.signal(signal.SIGALRM, before)


def spin() -> None:
    """Swallow what can be swallowed."""
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001 - as a careless driver does
            pass


def wait_for_workers() -> None:
    """Wait until no call that was given up goes on."""
    eventually(lambda: "pe-hook" not in {thread.name for thread in threading.enumerate()})


def test_the_value_and_the_error_of_a_call_in_time_are_the_callers(place: Callable[[Callable[[], Any]], Any]) -> None:
    assert place(lambda: within(LIMIT_S, lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        place(lambda: within(LIMIT_S, lambda: 1 // 0))


@pytest.mark.parametrize("work", [lambda: time.sleep(1), spin], ids=["sleeping", "spinning"])
def test_a_call_that_takes_too_long_is_ended_in_any_thread(
    place: Callable[[Callable[[], Any]], Any], work: Callable[[], None]
) -> None:
    with pytest.raises(Expired):
        place(lambda: within(LIMIT_S, work))
    wait_for_workers()


def test_a_call_that_was_given_up_does_nothing_more_when_it_wakes() -> None:
    done: list[str] = []

    def work() -> None:
        time.sleep(2 * LIMIT_S)
        done.append("went on")

    with pytest.raises(Expired):
        in_another(lambda: within(LIMIT_S, work))
    wait_for_workers()
    assert done == []


def test_a_program_that_handles_the_alarm_itself_keeps_it_and_has_deadlines(handled_alarm: None) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Expired):
        within(LIMIT_S, spin)
    assert signal.getsignal(signal.SIGALRM) is before
    wait_for_workers()


def test_no_limit_is_no_limit(place: Callable[[Callable[[], Any]], Any]) -> None:
    assert place(lambda: within(0, threading.get_ident)) != 0


def test_a_call_in_another_thread_sees_its_callers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def caller() -> str:
        variable.set("the caller's")
        return within(LIMIT_S, variable.get)

    assert in_another(caller) == "the caller's"


def test_the_handler_of_the_alarm_is_as_before_when_a_call_ends() -> None:
    before = signal.getsignal(signal.SIGALRM)
    within(LIMIT_S, lambda: None)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
