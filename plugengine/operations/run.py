"""Make and start a container: planned once, before anything is made; the one path of `pe run` and of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from plugengine.containers.create import Creation, create, plan_creation
from plugengine.containers.plan import StartPlan, plan_start, settle
from plugengine.operations.lifecycle import Log, start
from plugengine.site import Site
from plugengine.spec import ContainerSpec
from plugengine.state.container_rows import ContainerRow
from plugengine.streams.attach_client import Outcome, Streams

if TYPE_CHECKING:
    from plugengine.images.store import Progress


class RunPlan(Struct, frozen=True, kw_only=True):
    """Everything of one run."""

    creation: Creation
    start: StartPlan

    def describe(self) -> list[str]:
        """Return what is done, in the lines a run with `debug` logs."""
        said = [step.describe() for step in self.creation.steps] + [step.describe() for step in self.start.steps()]
        return [line for each in said for line in each.splitlines()]


def plan_run(site: Site, spec: ContainerSpec, *, progress: Progress | None = None) -> RunPlan:
    """Return the plan of a run; an image that is to be pulled is, else nothing is changed.

    Raises:
        PlugengineError: What a run would say, as far as it is known before the first step.
    """
    creation = plan_creation(site, spec, progress=progress)
    return RunPlan(creation=creation, start=plan_start(site, creation.row, site.drivers(creation.row.choice)))


def run(
    site: Site,
    spec: ContainerSpec,
    *,
    streams: Streams | None,
    made: Callable[[ContainerRow], None],
    progress: Progress | None = None,
    debug: bool = False,
    log: Log | None = None,
    warn: Log | None = None,
) -> tuple[ContainerRow, Outcome | None]:
    """Run a container; see `engine.containers.run`.

    Returns:
        The container as it was made, and how it ended: None where there are no streams to stay connected to.
    """
    plan = plan_run(site, spec, progress=progress)
    row = create(site, plan.creation, log=log if debug else None)
    made(row)
    settled = settle(site, plan.start, row, site.drivers(row.choice))
    return row, start(site, row, plan=settled, streams=streams, debug=debug, log=log, warn=warn)
