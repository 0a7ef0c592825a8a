"""Make and start a container: the one path of `pe run` and of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plugengine.containers.create import create
from plugengine.operations.lifecycle import Log, start
from plugengine.site import Site
from plugengine.spec import ContainerSpec
from plugengine.state.container_rows import ContainerRow
from plugengine.streams.attach_client import Outcome, Streams

if TYPE_CHECKING:
    from plugengine.images.store import Progress


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
    row = create(site, spec, progress=progress)
    made(row)
    return row, start(site, row, streams=streams, debug=debug, log=log, warn=warn)
