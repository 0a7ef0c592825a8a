"""The state database: one sqlite file, short transactions, safe for many processes and across forks."""

from __future__ import annotations

import _thread
import os
from contextlib import contextmanager
from weakref import WeakSet

from plugengine.errors import StateError
from plugengine.kernel import process
from plugengine.model import HostPath
from plugengine.state import database
from plugengine.state.locations import Locations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from plugengine.state.database import Parameters

PATIENCE_S = 60.0  # how long to wait for other processes' transactions, each of which takes microseconds

# One transaction at a time in this process. A fork waits for it, so that no child is born with half of one.
_gate = _thread.RLock()
_open_states: WeakSet[State] = WeakSet()
_fork_guarded = False
# This process is a child that was given open connections, which it must neither use nor close.
_inherited: list[sqlite3.Connection] = []


class State:
    """The state database below one root; opened at first use.

    One object may be used by several threads: transactions follow one another. A fork closes the connection
    first; parent and child each open their own when they need one.

    Args:
        root: The engine's persistent root; it and its directories are made when missing.
        patience_s: How long to wait for other processes before giving up.
    """

    def __init__(self, root: HostPath, *, patience_s: float = PATIENCE_S) -> None:
        self.root = root
        self.path: HostPath = Locations(root, root).database
        self._patience_s = patience_s
        self._connection: sqlite3.Connection | None = None
        self._in_transaction = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Cursor]:
        """Run the block between BEGIN IMMEDIATE and COMMIT; yields a cursor whose rows are `sqlite3.Row`.

        Everything is rolled back when the block raises. Keep it short: no driver call, no fork, no exec inside.

        Raises:
            StateError: The database is damaged or unusable, or stayed busy.
            NoSpaceError: The filesystem is full; nothing was written.
            RuntimeError: A transaction is already open in this thread.
            sqlite3.IntegrityError: A constraint does not hold; for the caller to explain.
        """
        import sqlite3

        with _gate:
            if self._in_transaction:
                raise RuntimeError(f"a transaction on {self.path} is already open")
            try:
                connection = self._connect()
                database.execute(connection, "BEGIN IMMEDIATE", patience_s=self._patience_s)
                self._in_transaction = True
                try:
                    yield connection.cursor()
                    self._check_still_open(connection)
                    connection.execute("COMMIT")
                finally:
                    self._end_transaction(connection)
            except sqlite3.IntegrityError:
                raise
            except sqlite3.DatabaseError as exc:
                raise database.database_error(exc, self.path) from exc

    def query(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Execute a SELECT and return all its rows. Raises as `transaction`."""
        import sqlite3

        with _gate:
            try:
                cursor = database.execute(self._connect(), sql, parameters, patience_s=self._patience_s)
                return cursor.fetchall()
            except sqlite3.DatabaseError as exc:
                raise database.database_error(exc, self.path) from exc

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with _gate:
            connection, self._connection = self._connection, None
            _open_states.discard(self)
            if connection is not None and not _inherited:
                connection.close()

    def __del__(self) -> None:
        # A connection is in a reference cycle with its cache of statements. Left to the collector it might be
        # open at the next fork, unseen by `_before_fork`.
        if self._connection is not None:
            self.close()

    def _connect(self) -> sqlite3.Connection:
        if _inherited:
            raise RuntimeError(f"{self.path}: used in a child that was forked within bare_children()")
        if self._connection is None:
            self._connection = database.connect(self.root, patience_s=self._patience_s)
            _guard_forks()
            _open_states.add(self)
        return self._connection

    def _check_still_open(self, connection: sqlite3.Connection) -> None:
        if self._connection is not connection:
            raise StateError(
                f"transaction on {self.path}: the process forked (or closed the database) inside it; "
                "nothing was written"
            )

    def _end_transaction(self, connection: sqlite3.Connection) -> None:
        """Roll back what was not committed; sqlite may have done so by itself, after a full disk for example."""
        self._in_transaction = False
        if self._connection is connection and connection.in_transaction:
            connection.execute("ROLLBACK")


def _guard_forks() -> None:
    global _fork_guarded
    if not _fork_guarded:
        os.register_at_fork(before=_before_fork, after_in_parent=_gate.release, after_in_child=_after_fork_in_child)
        _fork_guarded = True


def _before_fork() -> None:
    """Close every connection, so that no child inherits one.

    sqlite's locks are POSIX locks, which a child does not have, while its memory says that it has them; a
    connection that the child opens later goes by that memory. Tried with sqlite 3.40, the child only forgetting
    the inherited one: the parent closes, takes the log for unused and removes it, and all the child writes is lost.
    """
    _gate.acquire()
    if not process.children_are_bare():
        for state in list(_open_states):
            state.close()


def _after_fork_in_child() -> None:
    """Hold on to inherited connections, or the collector would close them, and with them what the parent holds."""
    _inherited.extend(state._connection for state in _open_states if state._connection is not None)  # noqa: SLF001
    _gate.release()
