"""The containers' rows of the state database, typed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from plugengine.errors import ConflictError, NotFoundError, StateError, UsageError
from plugengine.kernel.process import ProcessId, boot_id, is_alive
from plugengine.objects import ContainerState
from plugengine.spec import ContainerSpec, DriverChoice
from plugengine.state.names import check_name, near_miss, new_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from plugengine.state.state import State

STATUSES: Final = (
    "creating",
    "created",
    "starting",
    "running",
    "paused",
    "exited",
    "removing",
    "dead",  # it could not be removed; `state.error` says why
)
LIVE: Final = ("running", "paused")  # there is a first process, and a monitor that answers
RUN_RECORDS: Final = ("cgroup", "network", "runtime")  # of one run: gone with its end
BUSY: Final = ("creating", "starting", *LIVE, "removing")  # there is an owner, or nobody undid what it had begun
_NAME_ATTEMPTS = 20
_HEX = frozenset("0123456789abcdef")


class ContainerRow(Struct, frozen=True, kw_only=True):
    """One container."""

    id: str
    name: str
    status: str  # of STATUSES
    created_ns: int
    image_id: str
    image_name: str
    spec: ContainerSpec
    choice: DriverChoice
    state: ContainerState = ContainerState()
    records: Mapping[str, Any] = field(default_factory=dict)  # by kind: what drivers returned; see also RUN_RECORDS
    owner: ProcessId | None = None  # the process that works on it now; it is dead if this one is
    boot_id: str = ""  # the boot in which `state` and `owner` have their meaning


class Unset:
    """The type of `UNSET`, for arguments whose None has a meaning."""


UNSET: Final = Unset()


def insert(state: State, row: ContainerRow) -> ContainerRow:
    """Store a new container; an empty name is replaced by an invented one.

    Returns:
        The row as stored.

    Raises:
        ConflictError: The name is in use.
        NotFoundError: The image was removed in the meantime.
        UsageError: The name is not allowed.
    """
    if row.name:
        check_name(row.name)
        return _insert(state, row, row.name)
    for attempt in range(_NAME_ATTEMPTS):
        try:
            return _insert(state, row, new_name(attempt))
        except ConflictError:
            if attempt == _NAME_ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def get(state: State, reference: str) -> ContainerRow:
    """Return a container by its id, its name, or the beginning of its id, looked for in this order.

    Raises:
        NotFoundError: There is none; the hint has the nearest name.
        UsageError: Several ids begin like that.
    """
    found = state.query("SELECT * FROM containers WHERE id = ?1 OR name = ?2", (reference, reference.lstrip("/")))
    if not found and reference and _HEX.issuperset(reference):
        # "g" follows "f": the range holds exactly the ids that begin with the reference, and uses the index.
        found = state.query(
            "SELECT * FROM containers WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 2", (reference,)
        )
        if len(found) > 1:
            raise UsageError(
                f"container {reference}: several ids begin like that", hint="give more of the id, or the name"
            )
    if not found:
        raise _not_found(state, reference)
    # One container's name may be another's id; the id wins.
    return _decode(state, next((row for row in found if row["id"] == reference), found[0]))


def list_all(state: State, statuses: Iterable[str] | None = None) -> list[ContainerRow]:
    """Return the containers, or those in one of the statuses, the newest first."""
    where = ""
    parameters: tuple[str, ...] = ()
    if statuses is not None:
        parameters = tuple(statuses)
        where = f"WHERE status IN ({','.join('?' * len(parameters))})"
    query = f"SELECT * FROM containers {where} ORDER BY created_ns DESC, id"  # noqa: S608 - only question marks
    return [_decode(state, row) for row in state.query(query, parameters)]


def is_abandoned(row: ContainerRow) -> bool:
    """Tell whether a container's owner was killed, or went with the host, in the middle of its work."""
    if row.status not in BUSY:
        return False
    return row.boot_id != boot_id() or row.owner is None or not is_alive(row.owner)


def is_being_recovered(row: ContainerRow) -> bool:
    """Tell whether a container that ran has another owner than its monitor: somebody undoes what that one left."""
    monitor = ProcessId(row.state.monitor_pid, row.state.monitor_start)
    return row.status in LIVE and row.owner not in (None, monitor)


def abandoned(state: State) -> list[ContainerRow]:
    """Return the containers whose owner died."""
    return [row for row in list_all(state, BUSY) if is_abandoned(row)]


def claim(state: State, row: ContainerRow) -> bool:
    """Become the owner of a container that is as the row says; False: somebody else was faster."""
    me = ProcessId.of(os.getpid())
    return me is not None and change_owner(state, row, row.owner, me)


def lasting_records(row: ContainerRow) -> dict[str, Any]:
    """Return the records of a container that its run leaves behind."""
    return {key: value for key, value in row.records.items() if key not in RUN_RECORDS}


def ids(state: State) -> frozenset[str]:
    """Return the ids of all containers, without looking at the rest."""
    return frozenset(row["id"] for row in state.query("SELECT id FROM containers"))


def update(
    state: State,
    container_id: str,
    *,
    status: str | None = None,
    expect: Iterable[str] | None = None,
    container_state: ContainerState | None = None,
    records: Mapping[str, Any] | None = None,
    owner: ProcessId | Unset | None = UNSET,
    boot_id: str | None = None,
) -> None:
    """Change a container, all of it or nothing.

    Args:
        state: The state database.
        container_id: The whole id.
        status: The new status; None keeps the old one.
        expect: Change only a container in one of these statuses (compare and set).
        container_state: Replaces the old one.
        records: Replaces the old ones.
        owner: The process that works on the container; None: no longer any.
        boot_id: The boot this is about.

    Raises:
        NotFoundError: There is no such container.
        ConflictError: It is in another status than expected; the message names it.
    """
    changes: dict[str, Any] = {"status": status, "boot_id": boot_id}
    changes["state"] = None if container_state is None else _json(container_state)
    changes["records"] = None if records is None else _json(records)
    changes = {column: value for column, value in changes.items() if value is not None}
    if not isinstance(owner, Unset):
        changes["owner_pid"], changes["owner_start"] = owner or (None, None)
    expected = None if expect is None else tuple(expect)
    with state.transaction() as cursor:
        row = cursor.execute("SELECT name, status FROM containers WHERE id = ?", (container_id,)).fetchone()
        if row is None:
            raise NotFoundError(f"container {container_id}: no such container")
        if expected is not None and row["status"] not in expected:
            raise ConflictError(f"container {row['name']}: is {row['status']}, not {' or '.join(expected)}")
        if changes:
            sets = ", ".join(f"{column} = :{column}" for column in changes)
            cursor.execute(f"UPDATE containers SET {sets} WHERE id = :id", {**changes, "id": container_id})  # noqa: S608


def change_owner(state: State, row: ContainerRow, old: ProcessId | None, new: ProcessId) -> bool:
    """Give a container that still has the row's status and an old owner to a new one; False: it has not."""
    with state.transaction() as cursor:
        cursor.execute(
            "UPDATE containers SET owner_pid = ?, owner_start = ?, boot_id = ? "
            "WHERE id = ? AND status = ? AND owner_pid IS ? AND owner_start IS ?",
            (*new, boot_id(), row.id, row.status, *(old or (None, None))),
        )
        return bool(cursor.rowcount == 1)


def rename(state: State, container_id: str, name: str) -> None:
    """Give a container another name.

    Raises:
        NotFoundError: There is no such container.
        ConflictError: The name is in use.
        UsageError: The name is not allowed.
    """
    check_name(name)
    with state.transaction() as cursor:
        _check_name_free(cursor, name, container_id)
        cursor.execute("UPDATE containers SET name = ? WHERE id = ?", (name, container_id))
        if cursor.rowcount == 0:
            raise NotFoundError(f"container {container_id}: no such container")


def delete(state: State, container_id: str) -> None:
    """Forget a container with its leases, ids and uses of volumes; one that is not there counts as deleted."""
    with state.transaction() as cursor:
        for table in ("leases", "ports", "id_ranges", "volume_uses"):
            cursor.execute(f"DELETE FROM {table} WHERE container_id = ?", (container_id,))  # noqa: S608
        cursor.execute("DELETE FROM containers WHERE id = ?", (container_id,))


def _insert(state: State, row: ContainerRow, name: str) -> ContainerRow:
    columns = {
        "id": row.id,
        "name": name,
        "status": row.status,
        "created_ns": row.created_ns,
        "image_id": row.image_id,
        "image_name": row.image_name,
        "spec": _json(row.spec),
        "choice": _json(row.choice),
        "state": _json(row.state),
        "records": _json(row.records),
        "owner_pid": row.owner.pid if row.owner else None,
        "owner_start": row.owner.start_time if row.owner else None,
        "boot_id": row.boot_id,
    }
    places = ", ".join(f":{column}" for column in columns)
    with state.transaction() as cursor:
        _check_name_free(cursor, name, row.id)
        _check_image(cursor, row)
        cursor.execute(f"INSERT INTO containers ({', '.join(columns)}) VALUES ({places})", columns)  # noqa: S608
    return msgspec.structs.replace(row, name=name)


def _check_name_free(cursor: sqlite3.Cursor, name: str, container_id: str) -> None:
    other = cursor.execute("SELECT id FROM containers WHERE name = ? AND id <> ?", (name, container_id)).fetchone()
    if other is not None:
        raise ConflictError(
            f"container name {name}: in use by container {other['id']}",
            hint="remove or rename that container, or choose another name",
        )


def _check_image(cursor: sqlite3.Cursor, row: ContainerRow) -> None:
    """Hold the image: whoever removes one looks for rows that use it, in a transaction as well."""
    if row.image_id and not cursor.execute("SELECT 1 FROM images WHERE id = ?", (row.image_id,)).fetchone():
        raise NotFoundError(f"image {row.image_name or row.image_id}: removed in the meantime")


def _not_found(state: State, reference: str) -> NotFoundError:
    names = [row["name"] for row in state.query("SELECT name FROM containers")]
    return NotFoundError(f"container {reference}: no such container", hint=near_miss(reference, names))


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as exc:
        raise UsageError(
            f"container: {os.fsencode(exc.object)!r}: is not UTF-8", hint="words, names and variables must be"
        ) from exc


def _decode(state: State, row: sqlite3.Row) -> ContainerRow:
    try:
        return ContainerRow(
            id=row["id"],
            name=row["name"],
            status=row["status"],
            created_ns=row["created_ns"],
            image_id=row["image_id"],
            image_name=row["image_name"],
            spec=msgspec.json.decode(row["spec"], type=ContainerSpec),
            choice=msgspec.json.decode(row["choice"], type=DriverChoice),
            state=msgspec.json.decode(row["state"], type=ContainerState),
            records=msgspec.json.decode(row["records"]),
            owner=None if row["owner_pid"] is None else ProcessId(row["owner_pid"], row["owner_start"]),
            boot_id=row["boot_id"],
        )
    except msgspec.DecodeError as exc:
        raise StateError(
            f"state database {state.path}: container {row['id']}: {exc}", hint="run: pe system check --repair"
        ) from exc
