"""Say what a column costs compared with the baseline: one number for the terminal and the page."""

from __future__ import annotations

from plugengine.bench.results import HIGHER, Column, Run, Workload
from plugengine.bench.statistics import Interval, paired_ratio


def cost(run: Run, workload: Workload, column: Column) -> Interval | None:
    """Return how many times the baseline's cost this is, pair by pair: above 1 is worse, whichever way the unit counts.

    Throughput is turned over, so that half of it is a cost of 2. None: it is the baseline; or the two have no round in
    common, or a value of 0, which no ratio can be made with; or the baseline's measurement failed.
    """
    if column.name == run.baseline or run.cell(workload.name, run.baseline).error:
        return None
    mine, theirs = run.pairs(workload.name, column.name, run.baseline)
    above, below = (theirs, mine) if workload.better == HIGHER else (mine, theirs)
    if min(mine, default=0) <= 0 or min(theirs, default=0) <= 0:
        return None
    return paired_ratio(above, below, seed=run.seed)
