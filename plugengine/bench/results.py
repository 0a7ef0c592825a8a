"""What a benchmark run found, as a versioned JSON document: every single value, and where and how it was taken.

Only what was measured is stored. Medians, intervals and ratios are worked out anew from the values by whoever shows
them (`plugengine.bench.statistics`), so that no two readers can disagree about what a file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from plugengine.errors import UsageError

SCHEMA: Final = 1
LOWER: Final = "lower"  # is better: times, bytes of memory
HIGHER: Final = "higher"  # is better: throughput
NOT_MEASURED: Final = "not measured"


class Machine(Struct, frozen=True, kw_only=True):
    """Where it ran, as it was at the beginning, and how much it was disturbed."""

    host: str
    kernel: str
    cpu: str
    cores: int
    memory_bytes: int
    filesystem: str  # of the directory measured in, with the mount's options
    directory: str
    python: str
    plugengine: str
    virtual: str = ""  # what systemd-detect-virt(1) would say; "" on bare metal or unknown
    governor: str = ""  # cpufreq
    load_before: float = 0.0  # 1 minute, see proc_loadavg(5)
    load_after: float = 0.0
    steal_percent: float = 0.0  # of processor time during the run taken by the hypervisor, see proc_stat(5)


class Column(Struct, frozen=True, kw_only=True):
    """One column: a driver, a combination of drivers, a peer, or the plain directory that is the limit."""

    name: str
    version: str = ""
    distribution: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""  # why it could not be measured here; "" if it was
    limit: bool = False  # not a contender: what the hardware and the filesystem give at best


class Workload(Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    title: str  # a few words, for headings
    sentence: str  # what is done, with numbers of things
    group: str  # "metadata", "data", "life cycle", "real work" …
    unit: str  # "s", "B/s", "B", "1/s": SI or bytes, unscaled
    better: str = LOWER
    cold: bool = False
    tool: str = ""  # the program that did it where it is not ours, with its version
    note: str = ""  # e.g. that caches could not be dropped


class Cell(Struct, frozen=True, kw_only=True):
    """The values of one workload with one column; `values[i]` was taken in round `rounds[i]`.

    Without values and error the workload makes no sense there, or the run was interrupted before it came.
    """

    workload: str
    column: str
    values: tuple[float, ...] = ()
    rounds: tuple[int, ...] = ()
    error: str = ""  # why values are missing; a failed workload is shown as failed, never left out

    @property
    def absent(self) -> bool:
        """Whether there is nothing to show: it does not apply, or was never come to."""
        return not self.values and self.error in ("", NOT_MEASURED)


class Run(Struct, frozen=True, kw_only=True):
    """One run of `pe bench`."""

    kind: str  # "storage", "start", "net"
    started: str  # ISO 8601, UTC
    duration_s: float
    seed: int
    rounds: int
    warmup: int
    baseline: str
    command: tuple[str, ...]  # how to reproduce it
    place: str  # "container" or "direct"
    machine: Machine
    columns: tuple[Column, ...]
    workloads: tuple[Workload, ...]
    cells: tuple[Cell, ...]
    image: str = ""
    warnings: tuple[str, ...] = ()
    partial: bool = False  # interrupted: what was measured until then
    schema: int = SCHEMA

    def cell(self, workload: str, column: str) -> Cell:
        """Return one cell; empty, with an error, if there is none."""
        for cell in self.cells:
            if (cell.workload, cell.column) == (workload, column):
                return cell
        return Cell(workload=workload, column=column, error=NOT_MEASURED)

    @property
    def failures(self) -> tuple[Cell, ...]:
        """The cells that failed; a column that could not be measured here is none."""
        return tuple(cell for cell in self.cells if cell.error)

    def pairs(self, workload: str, column: str, baseline: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the values of two columns in the rounds in which both have one."""
        mine, theirs = self.cell(workload, column), self.cell(workload, baseline)
        values = dict(zip(mine.rounds, mine.values, strict=True))
        others = dict(zip(theirs.rounds, theirs.values, strict=True))
        both = [number for number in values if number in others]
        return tuple(values[number] for number in both), tuple(others[number] for number in both)


def to_json(run: Run) -> bytes:
    """Return the document, indented, with a newline at its end."""
    return msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n"


def from_json(data: bytes, what: str) -> Run:
    """Read a document.

    Args:
        data: The file's content.
        what: Its name, for errors.

    Raises:
        UsageError: It is not one, or of another schema version.
    """
    try:
        raw: Any = msgspec.json.decode(data)
    except msgspec.DecodeError as exc:
        raise UsageError(f"results {what}: not JSON: {exc}") from exc
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        hint = "measure again with this version, or read it with the version that wrote it"
        raise UsageError(f"results {what}: schema {schema!r}, this version reads {SCHEMA}", hint=hint)
    try:
        return msgspec.convert(raw, Run)
    except msgspec.ValidationError as exc:
        raise UsageError(f"results {what}: {exc}") from exc
