"""Remove what a container left: its writable layer, files, anonymous volumes and row."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from plugengine import volumes
from plugengine.errors import NotFoundError, PlugengineError
from plugengine.plugins.drivers import DriverSet
from plugengine.plugins.observers import Teller
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.trees import upper


def remove_container(site: Site, row: ContainerRow, drivers: DriverSet | None, *, with_volumes: bool) -> None:
    """Remove a container that does not run; whatever is gone already is fine.

    Args:
        site: Where.
        row: The container; its records may be those of a half-made one.
        drivers: Its drivers; None when its storage driver is not usable any more: then its directory alone goes.
        with_volumes: Also remove its anonymous volumes.

    Raises:
        DriverError: The storage driver could not remove it; the row stays, so that it can be tried again.
    """
    from plugengine.containers.create import storage_request

    current = row.records or _stored_records(site, row)
    if drivers is not None:
        drivers.storage.remove(storage_request(site, row, current), current.get("storage"))
    upper.remove_tree(site.locations.container(row.id))
    shutil.rmtree(site.locations.run(row.id), ignore_errors=True)
    for name in volumes.used_by(site.state, row.id, anonymous=True) if with_volumes else ():
        try:
            volumes.remove(site.state, site.locations, name, user=row.id)
        except PlugengineError:
            continue  # another container uses it too
    container_rows.delete(site.state, row.id)
    if drivers is not None and row.status != "creating":
        Teller(drivers.observe, row.id)("remove", name=row.name)


def remove_half_made(site: Site, row: ContainerRow, drivers: DriverSet | None) -> None:
    """Remove a container whose making failed, also against its storage driver, which may be why it failed.

    What cannot be removed stays with the row for the next command, and is not what the caller is to be told.
    """
    for usable in (drivers, None):
        try:
            remove_container(site, row, usable, with_volumes=True)
        except PlugengineError:
            continue
        return


def _stored_records(site: Site, row: ContainerRow) -> Mapping[str, Any]:
    """Return the records as they are by now; none when the row is gone."""
    try:
        return container_rows.get(site.state, row.id).records
    except NotFoundError:
        return {}
