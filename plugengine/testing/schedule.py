"""Keep a number of cases running, and hand out what became of each when it is asked for."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from msgspec import Struct

from plugengine.testing.attempt import Attempt, probe
from plugengine.testing.cases import Case
from plugengine.testing.isolation import Ground, Result, Running, Work, start
from plugengine.testing.loading import Tested
from plugengine.testing.outcome import Outcome, Verdict

PROBE_DEADLINE_S: Final = 20.0
_POLL_MS: Final = 1000
_LOST_S: Final = 30.0  # beyond its deadline a case's keeper itself must have hung


class _Job(Struct, frozen=True):
    case: Case
    running: Running


class Schedule:
    """The cases of one driver that wait, run, and are done.

    Args:
        tested: The driver.
        ground: Where they run.
        options: For the driver.
        jobs: How many run at once.
        patience: Deadlines are multiplied by it.
    """

    def __init__(
        self, tested: Tested, ground: Ground, options: Mapping[str, str], jobs: int, patience: float = 1.0
    ) -> None:
        self.jobs = jobs
        self._tested = tested
        self._ground = ground
        self._options = options
        self._patience = patience
        self._waiting: deque[Case] = deque()
        self._running: dict[int, _Job] = {}
        self._done: dict[str, Outcome] = {}
        self._poll = select.poll()
        self._number = 0

    def probe(self) -> tuple[str, ...]:
        """Return the reasons why the driver does not work here."""
        work = Work(name="probe", deadline_s=PROBE_DEADLINE_S * self._patience, run=partial(probe, self._tested))
        running = start(work, self._ground)
        try:
            while running.read():
                pass
        except BaseException:
            running.end()
            raise
        finally:
            result = running.finish()
        if result.verdict is Verdict.FAILED:
            return tuple(filter(None, (result.message and f"probe: {result.message}", *result.leaks)))
        return tuple(str(reason) for reason in result.value or ())

    def add(self, cases: Iterable[Case]) -> None:
        """Let cases run when their turn comes, in this order."""
        self._waiting.extend(cases)

    def outcome(self, case: Case) -> Outcome:
        """Wait until a case that was added is done, letting others run meanwhile."""
        while case.id not in self._done:
            self._step()
        return self._done[case.id]

    def close(self) -> None:
        """End what runs; forget what waits."""
        self._waiting.clear()
        for job in self._running.values():
            job.running.end()
        for pipe, job in self._running.items():
            self._poll.unregister(pipe)
            job.running.finish()
        self._running.clear()

    def _step(self) -> None:
        while self._waiting and len(self._running) < self.jobs:
            self._start(self._waiting.popleft())
        ready = self._poll.poll(_POLL_MS)
        for pipe, _event in ready:
            if not self._running[pipe].running.read():
                self._finish(pipe, Running.finish)
        if not ready:
            self._give_up_lost()

    def _start(self, case: Case) -> None:
        self._number += 1
        attempt = Attempt(case, self._tested, self._options)
        work = Work(name=f"{self._number:x}", deadline_s=case.deadline_s * self._patience, run=attempt.run)
        running = start(work, self._ground)
        self._running[running.pipe] = _Job(case, running)
        self._poll.register(running.pipe, select.POLLIN)

    def _finish(self, pipe: int, end: Callable[[Running], Result]) -> None:
        self._poll.unregister(pipe)
        job = self._running.pop(pipe)
        outcome = outcome_of(job.case, end(job.running))
        self._done[job.case.id] = outcome.judged(self._tested.deviations.get(outcome.id))

    def _give_up_lost(self) -> None:
        now = time.monotonic()
        for pipe, job in list(self._running.items()):
            if now - job.running.started > job.case.deadline_s * self._patience + _LOST_S:
                self._finish(pipe, Running.abandon)


def outcome_of(case: Case, result: Result) -> Outcome:
    """Return what is reported of a case."""
    return Outcome(
        id=case.id,
        sentence=case.sentence,
        claim=case.claim,
        verdict=result.verdict,
        message=result.message,
        leaks=result.leaks,
        traceback=result.traceback if result.verdict is Verdict.FAILED else "",
        log=result.log if result.verdict is Verdict.FAILED else "",
        duration_s=round(result.duration_s, 4),
    )
