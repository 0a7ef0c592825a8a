"""Recover containers in the background: one process for each, all watched by one that nobody waits for.

What becomes of each container is told to who started it, as long as that one listens. A container whose recovery does
not end is given up; see `recovery.give_up`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from plugengine import workers
from plugengine.operations.recovery import Finding
from plugengine.workers import Channel, Pool

if TYPE_CHECKING:
    from plugengine.site import Site
    from plugengine.state.container_rows import ContainerRow

NAME: Final = b"pe-recovery"
_AT_ONCE: Final = 8
_DEAD: Final = "dead"


class Report(Struct, frozen=True, kw_only=True):
    """What became of one container."""

    container_id: str
    finding: Finding | None = None  # None: somebody else was faster


def start(site: Site, *, dead: bool = False) -> Channel:
    """Start the recovery of every container without an owner, with `dead` also of those that could not be removed.

    Raises:
        OSError: There is no room for another process.
    """
    words = (site.locations.root, site.locations.run_root, *([_DEAD] if dead else []))
    return workers.start(NAME, f"{__name__}:main", *words)


def reports(channel: Channel, *, timeout_s: float | None = None) -> Iterator[Report]:
    """Yield what became of each container, until the last one or until the time is over."""
    for message in channel.messages(timeout_s=timeout_s):
        yield msgspec.json.decode(message, type=Report)


def main(channel: Channel, root: str, run_root: str, *words: str) -> None:
    """Be the watcher; returns when the last container was recovered or given up."""
    from plugengine.operations import recovery
    from plugengine.plugins import deadlines
    from plugengine.site import Site
    from plugengine.state import container_rows
    from plugengine.state.locations import Locations

    site = Site(Locations.from_environment({}, root=root, run_root=run_root), environ=os.environ)
    _open_log(site)

    def recover(row: ContainerRow) -> None:
        claimed = container_rows.claim(site.state, row)
        _tell(channel, row, recovery.recover(site, row) if claimed else None)

    rows = container_rows.abandoned(site.state)
    if _DEAD in words:
        rows += container_rows.list_all(site.state, ("dead",))
    for end in Pool(recover, limit_s=deadlines.recovery_s(), at_once=_AT_ONCE).run(rows):
        if end.fault:
            why = f"its recovery {end.fault}{recovery.during(site, end.process)}"
            _tell(channel, end.task, recovery.give_up(site, end.task, end.process, why))


def _open_log(site: Site) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    log = os.open(site.locations.recovery_log, flags, 0o600)
    os.dup2(log, 2)
    os.close(log)


def _tell(channel: Channel, row: ContainerRow, finding: Finding | None) -> None:
    channel.send(msgspec.json.encode(Report(container_id=row.id, finding=finding)))
