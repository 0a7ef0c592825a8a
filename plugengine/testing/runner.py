"""Run the cases of a kind against one driver, several at once, and report."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from plugengine.errors import NotSupportedError
from plugengine.model import HostPath, Kind
from plugengine.testing import ground as grounds
from plugengine.testing.attempt import Attempt, probe
from plugengine.testing.cases import Case, cases
from plugengine.testing.isolation import Ground, Result, Running, Work, start
from plugengine.testing.loading import Tested
from plugengine.testing.outcome import Outcome, Verdict
from plugengine.testing.selection import compile_selection

if TYPE_CHECKING:
    from plugengine.testing.report import Report

Progress = Callable[[Outcome, int, int], None]  # an outcome, how many are done, of how many
PROBE_DEADLINE_S: Final = 20.0
_LOST_S: Final = 30.0  # beyond its deadline a case's keeper itself must have hung


def run(
    kind: Kind | str,
    plugin: object,
    *,
    name: str | None = None,
    select: str | None = None,
    jobs: int | None = None,
    options: Mapping[str, str] | None = None,
    quick: bool = False,
    directory: str | None = None,
    filesystem: str | None = None,
    progress: Progress | None = None,
    chosen: Sequence[Case] | None = None,
) -> Report:
    """Run the conformance cases against a driver.

    Args:
        kind: The kind of driver.
        plugin: Name of an installed driver, or a module or object with its hooks.
        name: What to call a driver that is not installed.
        select: Expression over the words of case ids; see `selection.compile_selection`.
        jobs: How many cases run at once; None: one for each processor.
        options: Options for the driver, as `--storage-opt` and its like give them.
        quick: Leave slow cases out.
        directory: Where the cases write; None: /var/tmp.
        filesystem: Make one of this type for the cases: btrfs, ext4 or xfs.
        progress: Called for each outcome as soon as it and those before it are known; the order is that of the ids.
        chosen: The cases; None: all of the kind.

    Raises:
        NotFoundError, ConflictError, DriverLoadError: The driver cannot be opened.
        NotSupportedError: Not root, or the filesystem cannot be made.
        UsageError: An argument is not understood.
    """
    from plugengine.testing.report import Report

    kind = Kind(kind)
    if os.geteuid() != 0:
        raise NotSupportedError("the conformance kit needs root", hint="drivers mount, and make links and groups")
    wanted = list(cases(kind) if chosen is None else chosen)
    if select:
        matches = compile_selection(select)
        wanted = [case for case in wanted if matches(case.id)]
    tested = Tested(kind, plugin, name)
    started = time.time()
    with grounds.prepared(
        None if directory is None else HostPath(directory), filesystem, private_network=kind is Kind.NETWORK
    ) as ground:
        schedule = _Schedule(tested, ground, dict(options or {}), jobs or os.cpu_count() or 1)
        reasons = schedule.probe()
        outcomes = [] if reasons else schedule.run(wanted, quick=quick, progress=progress)
        return Report.of(
            tested,
            outcomes,
            reasons=reasons,
            options=dict(options or {}),
            filesystem=filesystem or grounds.filesystem_of(ground.directory),
            started=started,
            jobs=schedule.jobs,
        )


def why_left_out(case: Case, tested: Tested, *, quick: bool) -> str:
    """Return why a case is not run for this driver; empty: it is."""
    claimed = tested.driver.info.capabilities
    missing = sorted(capability.value for capability in case.needs - claimed)
    if missing:
        return f"not claimed: {', '.join(missing)}"
    if case.refused is not None and case.refused in claimed:
        return f"claimed: {case.refused.value}"
    return "slow, and the run was to be quick" if quick and case.slow else ""


class _Job(Struct, frozen=True):
    case: Case
    running: Running


class _Schedule:
    """Keeps a number of cases running until all are done."""

    def __init__(self, tested: Tested, ground: Ground, options: Mapping[str, str], jobs: int) -> None:
        self.jobs = jobs
        self._tested = tested
        self._ground = ground
        self._options = options
        self._jobs: dict[int, _Job] = {}
        self._poll = select.poll()

    def probe(self) -> tuple[str, ...]:
        """Return the reasons why the driver does not work here."""
        running = start(Work(name="probe", deadline_s=PROBE_DEADLINE_S, run=partial(probe, self._tested)), self._ground)
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

    def run(self, wanted: Sequence[Case], *, quick: bool, progress: Progress | None) -> list[Outcome]:
        """Run cases, the longest first; return what became of them in the order given."""
        found: dict[str, Outcome] = {}
        todo: list[Case] = []
        for case in wanted:
            why = why_left_out(case, self._tested, quick=quick)
            if why:
                found[case.id] = outcome_of(case, Result(verdict=Verdict.LEFT_OUT, message=why))
            else:
                todo.append(case)
        told = [case.id for case in reversed(todo)]  # in the order given, whichever is done first
        total = len(todo)
        todo.sort(key=lambda case: (case.slow, case.deadline_s), reverse=True)
        try:
            for outcome in self._outcomes(todo):
                found[outcome.id] = outcome
                while told and told[-1] in found:
                    name = told.pop()
                    if progress is not None:
                        progress(found[name], total - len(told), total)
        finally:
            self._end_all()
        return [found[case.id] for case in wanted]

    def _outcomes(self, todo: Sequence[Case]) -> Iterator[Outcome]:
        waiting = list(enumerate(todo))
        waiting.reverse()
        while waiting or self._jobs:
            while waiting and len(self._jobs) < self.jobs:
                self._start(*waiting.pop())
            for pipe, _event in self._poll.poll(1000):
                if not self._jobs[pipe].running.read():
                    yield self._finish(pipe)
            yield from self._give_up_lost()

    def _start(self, number: int, case: Case) -> None:
        work = Work(
            name=f"{number:x}",
            deadline_s=case.deadline_s,
            run=Attempt(case, self._tested, self._options).run,
        )
        running = start(work, self._ground)
        self._jobs[running.pipe] = _Job(case, running)
        self._poll.register(running.pipe, select.POLLIN)

    def _finish(self, pipe: int) -> Outcome:
        self._poll.unregister(pipe)
        job = self._jobs.pop(pipe)
        return outcome_of(job.case, job.running.finish())

    def _give_up_lost(self) -> Iterator[Outcome]:
        now = time.monotonic()
        for pipe, job in list(self._jobs.items()):
            if now - job.running.started > job.case.deadline_s + _LOST_S:
                self._poll.unregister(pipe)
                del self._jobs[pipe]
                result = job.running.abandon()
                yield outcome_of(job.case, replace(result, duration_s=now - job.running.started))

    def _end_all(self) -> None:
        for job in self._jobs.values():
            job.running.end()
        for job in self._jobs.values():
            job.running.finish()
        self._jobs.clear()


def outcome_of(case: Case, result: Result) -> Outcome:
    """Return what is reported of a case."""
    return Outcome(
        id=case.id,
        sentence=case.sentence,
        claim=case.claim,
        verdict=result.verdict,
        message=result.message,
        leaks=result.leaks,
        traceback=result.traceback,
        log=result.log if result.verdict is Verdict.FAILED else "",
        duration_s=round(result.duration_s, 4),
    )
