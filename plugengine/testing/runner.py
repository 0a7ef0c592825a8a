"""Run the cases of a kind against one driver, several at once, and report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Self

from plugengine.errors import NotSupportedError
from plugengine.model import HostPath, Kind
from plugengine.testing import case_directory as grounds
from plugengine.testing.cases import Case, cases
from plugengine.testing.isolation import Result
from plugengine.testing.loading import Tested
from plugengine.testing.outcome import Outcome, Verdict
from plugengine.testing.report import Report
from plugengine.testing.schedule import Schedule, outcome_of
from plugengine.testing.selection import compile_selection

Progress = Callable[[Outcome, int, int], None]  # an outcome, how many are known, of how many


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
    patience: float = 1.0,
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
        patience: Deadlines are multiplied by it; for slow machines.
        progress: Called for each outcome as soon as it and those before it are known; the order is that of the ids.
        chosen: The cases; None: all of the kind.

    Raises:
        NotFoundError, ConflictError, DriverLoadError: The driver cannot be opened.
        NotSupportedError: Not root, or the filesystem cannot be made.
        UsageError: An argument is not understood.
    """
    kind = Kind(kind)
    wanted = sorted(cases(kind) if chosen is None else chosen, key=lambda case: case.id)
    if select:
        matches = compile_selection(select)
        wanted = [case for case in wanted if matches(case.id)]
    with Kit(
        kind,
        plugin,
        name=name,
        jobs=jobs,
        options=options,
        directory=directory,
        filesystem=filesystem,
        patience=patience,
    ) as kit:
        outcomes = [] if kit.reasons else kit.run(wanted, quick=quick, progress=progress)
        return kit.report(outcomes)


class Kit:
    """One driver on its ground, ready to be tested; a context manager.

    Args:
        kind: As `run`.
        plugin: As `run`.
        name: As `run`.
        jobs: As `run`.
        options: As `run`.
        directory: As `run`.
        filesystem: As `run`.
        patience: As `run`.

    Raises:
        PlugengineError: As `run`.
    """

    def __init__(
        self,
        kind: Kind,
        plugin: object,
        *,
        name: str | None = None,
        jobs: int | None = None,
        options: Mapping[str, str] | None = None,
        directory: str | None = None,
        filesystem: str | None = None,
        patience: float = 1.0,
    ) -> None:
        if os.geteuid() != 0:
            raise NotSupportedError("conformance kit: needs root", hint="drivers mount, and make links and groups")
        self.tested: Tested = Tested(kind, plugin, name)
        self.tested.check_deviations()
        self._options = dict(options or {})
        self._jobs = jobs or os.cpu_count() or 1
        self._directory = None if directory is None else HostPath(directory)
        self._filesystem = filesystem
        self._patience = patience
        self._started = time.time()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        private_network = self.tested.kind is Kind.NETWORK
        # Others write where the host keeps its own: leases of CNI, control groups.
        protected = self.tested.kind is Kind.STORAGE
        prepared = grounds.prepared(
            self._directory, self._filesystem, private_network=private_network, protected=protected
        )
        ground = self._undo.enter_context(prepared)
        self._shown_filesystem = self._filesystem or grounds.filesystem_of(ground.directory)
        self.schedule: Schedule = Schedule(self.tested, ground, self._options, self._jobs, self._patience)
        self._undo.callback(self.schedule.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why the driver does not work here, or cannot be tested so; empty: it can."""
        missing = [
            f"needs --option {option.name}=…: {option.help}"
            for option in self.tested.driver.info.options
            if option.required and option.name not in self._options
        ]
        return self.schedule.probe() or tuple(missing)

    def run(self, wanted: Sequence[Case], *, quick: bool = False, progress: Progress | None = None) -> list[Outcome]:
        """Run cases, the longest first; return what became of them in the order given."""
        left_out = {case.id: why for case in wanted if (why := self.tested.why_left_out(case, quick=quick))}
        todo = [case for case in wanted if case.id not in left_out]
        self.schedule.add(sorted(todo, key=lambda case: (case.slow, case.deadline_s), reverse=True))
        found: list[Outcome] = []
        for case in wanted:
            if case.id in left_out:
                found.append(outcome_of(case, Result(verdict=Verdict.LEFT_OUT, message=left_out[case.id])))
                continue
            found.append(self.schedule.outcome(case))
            if progress is not None:
                progress(found[-1], sum(outcome.id not in left_out for outcome in found), len(todo))
        return found

    def report(self, outcomes: Sequence[Outcome]) -> Report:
        """Put a report together."""
        return Report.of(
            self.tested,
            outcomes,
            reasons=self.reasons,
            options=self._options,
            filesystem=self._shown_filesystem,
            started=self._started,
            jobs=self._jobs,
        )
