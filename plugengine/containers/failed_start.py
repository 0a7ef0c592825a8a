"""Say in its row why a container was not started; one that is to go when it ends goes now."""

from __future__ import annotations

import time

import msgspec

from plugengine.containers.remove import remove_half_made
from plugengine.errors import PlugengineError
from plugengine.plugins.drivers import StorageDriver
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow


def not_started(site: Site, row: ContainerRow, storage: StorageDriver, error: PlugengineError) -> None:
    """Record a failed start of a container this process owns; everything of the start is undone."""
    if row.spec.auto_remove:
        remove_half_made(site, row, storage)
        return
    state = msgspec.structs.replace(
        row.state, exit_code=error.exit_code, error=error.message, pid=0, finished_ns=time.time_ns()
    )
    put_back(site, msgspec.structs.replace(row, state=state))


def not_loaded(site: Site, row: ContainerRow, error: PlugengineError) -> None:
    """Record that a container's drivers cannot be loaded; the rest of its row is as it was before."""
    put_back(site, msgspec.structs.replace(row, state=msgspec.structs.replace(row.state, error=error.message)))


def put_back(site: Site, row: ContainerRow) -> None:
    """Give a container back as it was before its start, with the state in `row`."""
    status = "exited" if row.state.started_ns else "created"
    container_rows.update(
        site.state, row.id, status=status, expect=("starting",), container_state=row.state, owner=None
    )
