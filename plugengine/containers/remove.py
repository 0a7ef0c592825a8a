"""Remove what a container left: its writable layer, files, anonymous volumes and row."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from plugengine import volumes
from plugengine.errors import NotFoundError, PlugengineError
from plugengine.model import HostPath
from plugengine.plugins.drivers import StorageDriver
from plugengine.plugins.observers import Observers
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.trees import upper


def remove_container(
    site: Site,
    row: ContainerRow,
    storage: StorageDriver | None,
    *,
    with_volumes: bool,
    observe: Callable[..., Any] | None = None,
) -> None:
    """Remove a container that does not run; whatever is gone already is fine.

    Args:
        site: Where.
        row: The container, owned by this process; its records may be those of a half-made one.
        storage: Its driver; None to do without: what lies in the container's directory goes, what the driver made
            elsewhere stays for its `gc`.
        with_volumes: Also remove its anonymous volumes.
        observe: The observers, see `events.Observers`.

    Raises:
        DriverError: The storage driver could not remove it; the row stays, so that it can be tried again.
        StateError: Its directory could not be removed; likewise.
    """
    from plugengine.containers.requests import storage_request

    current = row.records or _stored_records(site, row)
    directory = site.locations.container(row.id)
    if storage is not None:
        storage.remove(storage_request(site, row, current), current.get("storage"))
    else:
        _unmount_below(directory)
    upper.remove_tree(directory)
    shutil.rmtree(site.locations.run(row.id), ignore_errors=True)
    for name in volumes.used_by(site.state, row.id, anonymous=True) if with_volumes else ():
        try:
            volumes.remove(site.state, site.locations, name, user=row.id)
        except PlugengineError:
            continue  # another container uses it too
    container_rows.delete(site.state, row.id)
    if row.status != "creating":
        Observers(observe, row.id)("remove", name=row.name)


def remove_half_made(site: Site, row: ContainerRow, storage: StorageDriver | None) -> str:
    """Remove a container whose making failed, also against its storage driver, which may be why it failed.

    Returns:
        Why it could not be removed, empty if it was. It is dead then; its caller has something else to tell.
    """
    problem = ""
    for usable in (storage, None):
        try:
            remove_container(site, row, usable, with_volumes=True)
        except PlugengineError as exc:
            problem = exc.message
        else:
            return ""
    mark_dead(site, row, problem)
    return problem


def mark_dead(site: Site, row: ContainerRow, error: str) -> None:
    """Say of a container that it could not be removed: it is left alone until somebody removes or repairs it."""
    state = msgspec.structs.replace(
        row.state, pid=0, pid_start=0, monitor_pid=0, monitor_start=0, server_pid=0, server_start=0, error=error
    )
    try:
        container_rows.update(
            site.state, row.id, status="dead", container_state=state, records=row.records or None, owner=None
        )
    except NotFoundError:
        pass  # it is gone after all


def _unmount_below(directory: HostPath) -> None:
    """Take away what a driver mounted there for everybody to see."""
    from plugengine.kernel.mount import MNT_DETACH, umount2
    from plugengine.kernel.mountinfo import mounts_at_or_below, read_mountinfo

    for entry in mounts_at_or_below(read_mountinfo(), directory):
        try:
            umount2(entry.mount_point, MNT_DETACH)
        except OSError:
            continue  # the removal of the directory says what is in its way


def _stored_records(site: Site, row: ContainerRow) -> Mapping[str, Any]:
    """Return the records as they are by now; none when the row is gone."""
    try:
        return container_rows.get(site.state, row.id).records
    except NotFoundError:
        return {}
