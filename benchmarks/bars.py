"""Hold the results of `pe bench start --peers --json FILE` to the bars: pe against the faster of docker and podman."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from plugengine.bench.results import from_json
from plugengine.bench.statistics import median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugengine.bench.results import Run

WORKLOAD = "run"
OWN = ("overlay", "fuse_union")  # copies (vfs) are for where nothing else works
PEERS = ("docker", "podman")
WITHOUT = "none"
DEFAULT = "default"  # the peers' column with a bridge
# Share of the faster peer's median that pe may take: without a network, and with a bridge.
ALLOWED = {WITHOUT: 0.5, DEFAULT: 1.0}


def main(arguments: Sequence[str]) -> int:
    """Print a line for each bar; return 1 when one is missed, or there is no peer to compare with."""
    if len(arguments) != 1:
        print("usage: bars.py RESULTS.json", file=sys.stderr)
        return 2
    run = from_json(Path(arguments[0]).read_bytes(), arguments[0])
    lines = [bar(run, column.name) for column in run.columns if is_own(column.name)]
    for line, _ in lines:
        print(line)
    return 0 if lines and all(met for _, met in lines) else 1


def is_own(column: str) -> bool:
    """Tell whether a column is pe's command line with drivers there is a bar for."""
    name, plus, network = column.partition("+")
    return bool(plus) and name in OWN and network in (WITHOUT, "bridge")


def bar(run: Run, column: str) -> tuple[str, bool]:
    """Return the line of one column, and whether it is within its bar."""
    network = WITHOUT if column.endswith(f"+{WITHOUT}") else DEFAULT
    peers = {peer: seconds(run, f"{peer}+{network}") for peer in PEERS}
    best = min((value, peer) for peer, value in peers.items() if value is not None) if any(peers.values()) else None
    own = seconds(run, column)
    if best is None:
        return f"{column}: no peer was measured", False
    limit = f"{ALLOWED[network]:.2f} of {best[1]}'s median ({best[0] * 1000:.1f} ms) allowed"
    if own is None:
        return f"{column}: failed, {limit}: MISSED", False
    met = own <= ALLOWED[network] * best[0]
    return f"{column}: {own / best[0]:.2f}, {limit}: {'met' if met else 'MISSED'}", met


def seconds(run: Run, column: str) -> float | None:
    """Return the median of a column; None if it failed or was not measured."""
    cell = run.cell(WORKLOAD, column)
    return None if cell.error or not cell.values else median(cell.values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
