"""Show what fuse.py measured: a table of medians, ratios, and whether the bars are met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from plugengine.bench.statistics import geometric_mean, median

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS: Final = "fuse_union"
KERNEL: Final = "overlay"
PEER: Final = "fuse-overlayfs"
# What the kernel answers by itself for both takes the same time; a median of it differs by chance by some percent.
PEER_ALLOWED: Final = 1.05
PEER_GEOMETRIC: Final = 2.0
MOUNT_MS: Final = 5.0
# How much more time than the kernel's overlayfs a workload may take; see docs/fuse-union.md.
KERNEL_BARS: Final = {
    "walk, warm": 1.3,
    "open+read+close, warm": 1.3,
    "absent names, warm": 1.3,
    "python, 30 path entries": 1.3,
    "read, in order": 1.3,
    "read, at random": 1.3,
    "write, in order": 1.3,
    "write, at random": 1.3,
    "create": 3.0,
    "unlink": 3.0,
    "copy-up, small files": 3.0,
}
MOUNTS: Final = "mount, "

Samples = dict[str, dict[str, list[float]]]  # workload -> union -> milliseconds


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: a figure and the most it may be."""

    name: str
    figure: float
    allowed: float
    unit: str

    @property
    def met(self) -> bool:
        """Tell whether it is reached."""
        return self.figure <= self.allowed

    def line(self) -> str:
        """Return what it does, in one line."""
        return (
            f"{self.name}: {self.figure:.2f} {self.unit}, {self.allowed:g} allowed: {'met' if self.met else 'MISSED'}"
        )


def medians(samples: Samples) -> dict[str, dict[str, float]]:
    """Return the median of every row and column."""
    return {name: {union: median(values) for union, values in row.items() if values} for name, row in samples.items()}


def bars(samples: Samples) -> list[Bar]:
    """Compare our medians with the peers'; a peer that was not measured sets no bar."""
    found: list[Bar] = []
    ratios: list[float] = []
    for name, row in medians(samples).items():
        if OURS not in row:
            continue
        if name.startswith(MOUNTS):
            found.append(Bar(name=name, figure=row[OURS], allowed=MOUNT_MS, unit="ms"))
        elif PEER in row:
            ratios.append(row[PEER] / row[OURS])
            found.append(Bar(name=name, figure=row[OURS] / row[PEER], allowed=PEER_ALLOWED, unit=f"of {PEER}"))
        if name in KERNEL_BARS and KERNEL in row:
            figure = row[OURS] / row[KERNEL]
            found.append(Bar(name=name, figure=figure, allowed=KERNEL_BARS[name], unit=f"of {KERNEL}"))
    if ratios:
        figure = 1 / geometric_mean(ratios)
        found.append(Bar(name="geometric mean", figure=figure, allowed=1 / PEER_GEOMETRIC, unit=f"of {PEER}"))
    return found


def table(samples: Samples, unions: Sequence[str], about: Mapping[str, str]) -> str:
    """Return the report as text."""
    lines = [f"{name}: {value}" for name, value in about.items()]
    lines += [
        "",
        f"{'medians in ms':<26}" + "".join(f"{union:>16}" for union in unions) + f"{'/kernel':>9}{'/peer':>8}",
    ]
    for name, row in medians(samples).items():
        cells = "".join(f"{row[union]:>16.2f}" if union in row else f"{'-':>16}" for union in unions)
        lines.append(f"{name:<26}{cells}{_ratio(row, KERNEL):>9}{_ratio(row, PEER):>8}")
    found = bars(samples)
    lines += ["", *(bar.line() for bar in found)]
    lines.append(f"{sum(bar.met for bar in found)} of {len(found)} bars met")
    return "\n".join(lines)


def _ratio(row: Mapping[str, float], other: str) -> str:
    return f"{row[OURS] / row[other]:.2f}" if OURS in row and other in row else "-"


def document(samples: Samples, about: Mapping[str, str]) -> dict[str, Any]:
    """Return the report as a JSON object with every sample."""
    return {
        "machine": dict(about),
        "samples_ms": samples,
        "medians_ms": medians(samples),
        "bars": [
            {"name": bar.name, "figure": bar.figure, "allowed": bar.allowed, "unit": bar.unit, "met": bar.met}
            for bar in bars(samples)
        ],
    }
