"""Open the sqlite file of the state: create, migrate, wait for others, and say in our words what went wrong."""

from __future__ import annotations

import os
import time

from plugengine.errors import NoSpaceError, StateError
from plugengine.state.locations import Locations, directory_error
from plugengine.state.schema import MIGRATIONS, VERSION, statements

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from typing import Any, TypeAlias

    from plugengine.model import HostPath

    Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

_FIRST_PAUSE_S = 0.000_2
_LONGEST_PAUSE_S = 0.02

# sqlite's primary result codes, sqlite3.h; the extended code keeps them in its low byte.
_PRIMARY = 0xFF
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26


def connect(root: HostPath, *, patience_s: float) -> sqlite3.Connection:
    """Open the database below a root, made and brought to today's schema when needed.

    Raises:
        StateError: It cannot be used, or a newer version has made it.
        NoSpaceError: There is no room to make it.
        sqlite3.DatabaseError: As sqlite says; `database_error` translates.
    """
    import sqlite3

    path = Locations(root, root).database
    _create_file(root, path)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        _prepare(connection, path, patience_s)
    except BaseException:
        connection.close()
        raise
    return connection


def execute(
    connection: sqlite3.Connection, sql: str, parameters: Parameters = (), *, patience_s: float
) -> sqlite3.Cursor:
    """Execute a statement, waiting for other processes.

    sqlite's own busy handler isn't used: it does not see every kind of SQLITE_BUSY, and its fixed pauses of up to
    100 ms let many processes wake together and most of them find the lock taken again.
    """
    import sqlite3

    deadline = time.monotonic() + patience_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return connection.execute(sql, parameters)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & _PRIMARY not in (_BUSY, _LOCKED) or time.monotonic() > deadline:
                raise
        time.sleep(pause * (0.5 + os.urandom(1)[0] / 256))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def database_error(exc: sqlite3.DatabaseError, path: HostPath) -> StateError | NoSpaceError:
    """Say in the engine's words what sqlite said."""
    code = getattr(exc, "sqlite_errorcode", 0) & _PRIMARY
    message = f"state database {path}: {exc}"
    if code in (_READONLY, _CANTOPEN) and os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY:
        message = f"state database {path}: its filesystem is mounted read-only"
    if code == _FULL or (code == _IOERR and _is_full(os.path.dirname(path))):
        return NoSpaceError(message, hint="free some space; nothing was changed")
    hints = {
        _BUSY: f"some process holds a transaction open; find it with: fuser {path}",
        _CORRUPT: "run: pe system check --repair",
        _NOTADB: "run: pe system check --repair",
        _READONLY: "the engine must be able to write below its root; choose another with --root",
        _CANTOPEN: "the engine must be able to write below its root; choose another with --root",
    }
    return StateError(message, hint=hints.get(code))


def is_damage(error: StateError) -> bool:
    """Tell whether an error of `database_error` means that the file is damaged, which a repair may cure."""
    return getattr(error.__cause__, "sqlite_errorcode", 0) & _PRIMARY in (_CORRUPT, _NOTADB)


def _create_file(root: HostPath, path: HostPath) -> None:
    """Make an empty database, readable by its owner only, and the directories around it."""
    if os.path.exists(path):
        return
    Locations(root, root).ensure_root()
    try:
        # O_EXCL: a file that is there must not be opened here, because closing it would drop the locks of every
        # connection of this process; see fcntl_locking(2), "Record locking".
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as exc:
        raise directory_error("make state database", exc, path) from exc


def _prepare(connection: sqlite3.Connection, path: HostPath, patience_s: float) -> None:
    version = execute(connection, "PRAGMA user_version", patience_s=patience_s).fetchone()[0]
    if version > VERSION:
        raise StateError(
            f"open state database {path}: made by a newer version of plugengine "
            f"(schema {version}, known up to {VERSION})",
            hint="upgrade plugengine, or choose another root",
        )
    # This one reads the schema too: seen with sqlite 3.40, "database is locked" while another process closes the
    # last connection and folds the log back.
    execute(connection, "PRAGMA synchronous = NORMAL", patience_s=patience_s)
    connection.execute("PRAGMA foreign_keys = ON")
    if version < VERSION:
        _migrate(connection, path, patience_s)


def _migrate(connection: sqlite3.Connection, path: HostPath, patience_s: float) -> None:
    mode = execute(connection, "PRAGMA journal_mode = WAL", patience_s=patience_s).fetchone()[0]
    if mode != "wal":
        raise StateError(
            f"open state database {path}: its filesystem cannot hold a write-ahead log",
            hint="put the root on a local filesystem",
        )
    execute(connection, "BEGIN IMMEDIATE", patience_s=patience_s)
    try:
        # Another process may have been faster: only now, with the lock held, the version is certain.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for step in MIGRATIONS[version:]:
            for statement in statements(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _is_full(path: str) -> bool:
    found = os.statvfs(path)
    return found.f_bavail == 0 or (found.f_files > 0 and found.f_favail == 0)
