"""Find damage in the state database, and save what can still be read of it into a new one."""

from __future__ import annotations

import errno
import os
import time

from plugengine.errors import StateError
from plugengine.kernel.files import AT_FDCWD, RENAME_EXCHANGE, renameat2
from plugengine.model import HostPath
from plugengine.state.database import is_damage
from plugengine.state.locations import Locations, directory_error
from plugengine.state.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

# In the order in which rows may refer to one another.
_TABLES = (
    "images",
    "refs",
    "layers",
    "containers",
    "networks",
    "leases",
    "ports",
    "id_ranges",
    "volumes",
    "volume_uses",
)
_WITHOUT_ROWID = ("leases", "volume_uses")
_COMPANIONS = ("-wal", "-shm")


def check(state: State, *, repair: bool) -> list[str]:
    """Return what is wrong with the database; with repair, there is a sound one afterwards.

    Rows that cannot be read any more are lost: containers, images and volumes whose files are there without a row
    are then for the other checks. The damaged file is kept beside the new one; a process that has it open goes on
    with it until it opens the database again.

    Raises:
        StateError: The new database cannot be made, or the damage is none this version understands.
    """
    found = _damage(state)
    if not found or not repair:
        return found
    state.close()
    return [*found, *_rebuild(state.root)]


def _damage(state: State) -> list[str]:
    try:
        lines = [str(row[0]) for row in state.query("PRAGMA quick_check")]
        broken = state.query("PRAGMA foreign_key_check")
    except StateError as exc:
        if is_damage(exc):
            return [exc.message]
        raise
    damage = [f"state database {state.path}: {line}" for line in lines if line != "ok"]
    return damage + [f"state database {state.path}: a row of {row[0]} refers to nothing" for row in broken]


def _rebuild(root: HostPath) -> list[str]:
    """Save the readable rows into a new database and put it in the place of the old one."""
    old = Locations(root, root).database
    workshop = HostPath(f"{Locations(root, root).tmp}/salvage-{os.getpid()}")
    kept = f"{old}.damaged-{time.time_ns()}"
    try:
        new = State(workshop)
        new.query("SELECT 1")  # it is made even if there is nothing to put in
        lines = _save(old, new)
        new.close()  # as the last connection it folds the log into the file
        # A log belongs to a file by its name only: beside the new one the old log would be replayed into it.
        for suffix in _COMPANIONS:
            _rename(old + suffix, kept + suffix)
        renameat2(AT_FDCWD, new.path, AT_FDCWD, old, RENAME_EXCHANGE)
        os.rename(new.path, kept)
    except OSError as exc:
        raise directory_error("repair state database", exc, old) from exc
    finally:
        from plugengine.trees.remove import remove_tree

        remove_tree(workshop)
    return [*lines, f"state database {old}: the damaged file is kept as {kept}"]


def _save(old: HostPath, new: State) -> list[str]:
    import sqlite3

    lines = []
    source = sqlite3.connect(f"file:{old}?mode=ro", uri=True, isolation_level=None)
    try:
        for table in _TABLES:
            saved, lost = 0, False
            for order in ("ASC", "DESC"):  # from both ends: a damaged page stops a scan
                rows, complete = _readable(source, table, order)
                saved += _insert(new, table, rows)
                lost = not complete
                if complete:
                    break
            lines += [f"{table}: {saved} rows saved" + (", some lost" if lost else "")] if saved or lost else []
    finally:
        source.close()
    return lines


def _readable(source: sqlite3.Connection, table: str, order: str) -> tuple[list[dict[str, object]], bool]:
    """Return the rows that can be read, and whether these are all."""
    import sqlite3

    rows: list[dict[str, object]] = []
    key = "network" if table == "leases" else "volume" if table == "volume_uses" else "rowid"
    try:
        cursor = source.execute(f"SELECT * FROM {table} ORDER BY {key} {order}")  # noqa: S608 - names of our own
        columns = [description[0] for description in cursor.description]
        rows.extend(dict(zip(columns, values, strict=True)) for values in _until_damage(cursor))
    except sqlite3.DatabaseError:
        return rows, False
    return rows, True


def _until_damage(cursor: sqlite3.Cursor) -> Iterator[tuple[object, ...]]:
    yield from cursor


def _insert(new: State, table: str, rows: list[dict[str, object]]) -> int:
    """Insert rows that are not there yet; return how many."""
    import sqlite3

    saved = 0
    for row in rows:
        places = ", ".join(f":{column}" for column in row)
        statement = f"INSERT OR IGNORE INTO {table} ({', '.join(row)}) VALUES ({places})"  # noqa: S608 - likewise
        try:
            with new.transaction() as cursor:
                cursor.execute(statement, row)
                saved += cursor.rowcount
        except (sqlite3.IntegrityError, StateError):
            continue  # it refers to a lost row, or is no row of today's schema
    return saved


def _rename(source: str, target: str) -> None:
    try:
        os.rename(source, target)
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
