"""Remove a container on somebody's word, whatever state it is in and whoever is at it."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Final, cast

from plugengine.containers.remove import mark_dead, remove_container
from plugengine.errors import ConflictError, NotFoundError, PlugengineError
from plugengine.kernel.process import ProcessId, boot_id, open_pidfd
from plugengine.operations import lifecycle, recovery, recovery_worker
from plugengine.plugins.drivers import StorageDriver
from plugengine.site import Site
from plugengine.state import container_rows
from plugengine.state.container_rows import LIVE, ContainerRow

_WAIT_S: Final = 15.0  # for another process that works on the container
_RECOVERY_S: Final = 5.0  # for its recovery, by force
_LOOK_AGAIN_S: Final = 0.02
_END_S: Final = 5.0
_REMOVABLE: Final = ("created", "exited", "dead")


def remove(site: Site, row: ContainerRow, *, force: bool, with_volumes: bool) -> tuple[str, ...]:
    """Remove a container; see `Engine.remove`."""
    runs = row.status in (*LIVE, "starting")
    if runs and not container_rows.is_abandoned(row) and not container_rows.is_being_recovered(row):
        if not force:
            raise ConflictError(
                f"container {row.name}: is {row.status}", hint=f"stop it first: pe stop {row.name}; or pe rm --force"
            )
        try:
            lifecycle.stop(site, row, timeout_s=0, number=signal.SIGKILL)
        except NotFoundError:
            return ()  # it was to be removed automatically
    taken = _take(site, row, force=force, with_volumes=with_volumes)
    return () if taken is None else _remove(site, taken, force=force, with_volumes=with_volumes)


def _remove(site: Site, row: ContainerRow, *, force: bool, with_volumes: bool) -> tuple[str, ...]:
    """Remove a container that is this process's own; `row.status` is what it was before."""
    warnings: list[str] = []
    storage = _storage(site, row, warnings)
    if force and row.status == "dead":
        warnings.append(f"{row.state.error}; removed without its storage driver")
        storage = None
    try:
        remove_container(site, row, storage, with_volumes=with_volumes, observe=site.observe)
    except (PlugengineError, OSError) as exc:
        if not force or storage is None:
            mark_dead(site, row, str(exc))
            raise
        warnings.append(f"{exc}; removed without its storage driver")
        _remove_without(site, row, with_volumes=with_volumes)
    return tuple(f"container {row.name}: {line}; what it made elsewhere stays" for line in warnings)


def _remove_without(site: Site, row: ContainerRow, *, with_volumes: bool) -> None:
    try:
        remove_container(site, row, None, with_volumes=with_volumes, observe=site.observe)
    except PlugengineError as exc:
        mark_dead(site, row, exc.message)
        raise


def _storage(site: Site, row: ContainerRow, warnings: list[str]) -> StorageDriver | None:
    """Return the storage driver; one that was uninstalled or is broken is a warning."""
    try:
        return cast(StorageDriver, site.driver_of(row.choice, "storage"))
    except PlugengineError as exc:
        warnings.append(exc.message)
        return None


def _take(site: Site, row: ContainerRow, *, force: bool, with_volumes: bool) -> ContainerRow | None:
    """Become the owner of a container that does not run; None when somebody else has removed it meanwhile.

    Who works on it is waited for. One whose owner is dead is recovered first.

    Raises:
        ConflictError: It is running again, or whoever works on it does not come to an end.
    """
    begin = time.monotonic()
    while True:
        waited_s = time.monotonic() - begin
        try:
            row = container_rows.get(site.state, row.id)
        except NotFoundError:
            return None
        if row.status in _REMOVABLE:
            if _claim(site, row, with_volumes=with_volumes):
                return row
        elif container_rows.is_abandoned(row):
            if container_rows.claim(site.state, row):
                recovery.recover(site, row)
        elif force and waited_s > _RECOVERY_S and _end_recovery(row):
            if container_rows.claim(site.state, row):
                mark_dead(site, row, "its recovery did not end")
        elif waited_s > _WAIT_S:
            raise _busy(row)
        else:
            time.sleep(_LOOK_AGAIN_S)


def _claim(site: Site, row: ContainerRow, *, with_volumes: bool) -> bool:
    try:
        container_rows.update(
            site.state,
            row.id,
            status="removing",
            expect=(row.status,),
            records={**row.records, "remove_volumes": with_volumes},  # for whoever ends it if we are killed
            owner=ProcessId.of(os.getpid()),
            boot_id=boot_id(),
        )
    except (ConflictError, NotFoundError):
        return False  # somebody else was faster
    return True


def _end_recovery(row: ContainerRow) -> bool:
    """Kill the process that recovers a container, which is not getting anywhere; False when it is something else."""
    if row.owner is None or (pidfd := open_pidfd(row.owner)) is None:
        return True
    try:
        with open(f"/proc/{row.owner.pid}/comm", "rb") as stream:
            if stream.read().strip() != recovery_worker.NAME:
                return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(_END_S * 1000))
    except (FileNotFoundError, ProcessLookupError):
        return True
    finally:
        os.close(pidfd)


def _busy(row: ContainerRow) -> ConflictError:
    pid = row.owner.pid if row.owner is not None else 0
    doing = {"creating": "made", "removing": "removed", "starting": "started"}.get(row.status)
    if doing is None:
        return ConflictError(f"container {row.name}: is {row.status}")
    return ConflictError(
        f"container {row.name}: is still being {doing} by process {pid} after {_WAIT_S:g} s",
        hint="wait for that process, or end it",
    )
