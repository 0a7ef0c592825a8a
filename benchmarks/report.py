"""Show the results: a table for people, JSON for programs, and whether the bars are met."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Case, median_interval, quantile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PEERS = ("docker", "podman")
FLOOR = "floor"
# Share of the faster peer's median that pe may take.
BARS = {"none": 0.5, "bridge": 1.0}
KIB_PER_GIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: pe's median against the faster peer's."""

    case: str
    median_ms: float | None
    peer: str | None
    peer_ms: float | None
    allowed: float

    @property
    def met(self) -> bool | None:
        """None: no peer to compare with."""
        if self.peer_ms is None:
            return None
        return self.median_ms is not None and self.median_ms <= self.allowed * self.peer_ms


def machine(work: Path) -> dict[str, str]:
    """Describe where the figures come from."""
    processor = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory_kib = int((_field("/proc/meminfo", "MemTotal") or "0").split()[0])
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "memory": f"{memory_kib / KIB_PER_GIB:.1f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "filesystem": _filesystem(work),
        "python": platform.python_version(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _filesystem(path: Path) -> str:
    """Return the type of the filesystem that holds `path`: the longest mount point above it."""
    best, fstype = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point, kind = line.split()[1:3]
        if path.is_relative_to(point) and len(point) >= len(best):
            best, fstype = point, kind
    return fstype


def bars(cases: Sequence[Case]) -> list[Bar]:
    """Compare each pe case with the faster peer on the same kind of network."""
    found = []
    for case in (case for case in cases if case.engine == "pe"):
        network = case.name.split(",")[0]
        peers = [other for other in cases if other.engine in PEERS and other.name == network and measured(other)]
        best = min(peers, key=median, default=None)
        found.append(
            Bar(
                case=f"pe {case.name}",
                median_ms=median(case) if measured(case) else None,
                peer=best.engine if best else None,
                peer_ms=median(best) if best else None,
                allowed=BARS[network],
            )
        )
    return found


def measured(case: Case) -> bool:
    """Tell whether the case ran in every round."""
    return case.failure is None and bool(case.samples_ms)


def median(case: Case) -> float:
    """Return the median in milliseconds."""
    return quantile(case.samples_ms, 0.5)


def table(cases: Sequence[Case], about: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the whole report as text."""
    lines = [f"{name}: {value}" for name, value in {**about, **versions}.items()]
    lines += ["", f"{'case':<26}{'median':>9}{'p90':>9}{'min':>9}{'95 % of median':>18}{'n':>5}   [ms]"]
    for case in cases:
        lines.append(_row(case))
    lines += ["", *(_bar_line(bar) for bar in bars(cases))]
    return "\n".join(lines)


def _row(case: Case) -> str:
    name = f"{case.engine} {case.name}"
    if not measured(case):
        return f"{name:<26}  failed: {case.failure or 'not run'}"
    low, high = median_interval(case.samples_ms)
    figures = (median(case), quantile(case.samples_ms, 0.9), min(case.samples_ms))
    interval = f"{low:.1f} … {high:.1f}"
    return f"{name:<26}{''.join(f'{value:9.1f}' for value in figures)}{interval:>18}{len(case.samples_ms):>5}"


def _bar_line(bar: Bar) -> str:
    if bar.peer_ms is None:
        return f"{bar.case}: no peer was measured"
    limit = f"{bar.allowed:.2f} of {bar.peer}'s median ({bar.peer_ms:.1f} ms) allowed"
    if bar.median_ms is None:
        return f"{bar.case}: failed, {limit}: MISSED"
    return f"{bar.case}: {bar.median_ms / bar.peer_ms:.2f}, {limit}: {'met' if bar.met else 'MISSED'}"


def document(cases: Sequence[Case], about: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """Return the report as a JSON object, with every sample."""
    return {
        "machine": dict(about),
        "versions": dict(versions),
        "cases": [_case_object(case) for case in cases],
        "bars": [
            {
                "case": bar.case,
                "median_ms": bar.median_ms,
                "peer": bar.peer,
                "peer_median_ms": bar.peer_ms,
                "allowed": bar.allowed,
                "met": bar.met,
            }
            for bar in bars(cases)
        ],
    }


def _case_object(case: Case) -> dict[str, Any]:
    result: dict[str, Any] = {"engine": case.engine, "name": case.name, "argv": list(case.argv)}
    if not measured(case):
        return {**result, "failure": case.failure or "not run"}
    return {
        **result,
        "median_ms": median(case),
        "p90_ms": quantile(case.samples_ms, 0.9),
        "median_interval_ms": median_interval(case.samples_ms),
        "samples_ms": case.samples_ms,
    }
