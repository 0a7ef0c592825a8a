"""The state database: transactions, schema, damage."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from plugengine.errors import StateError
from plugengine.model import HostPath
from plugengine.state.schema import VERSION
from plugengine.state.state import State


@pytest.fixture
def root(tmp_path: Path) -> HostPath:
    return HostPath(str(tmp_path / "root"))


def layers(state: State) -> list[str]:
    return [row["diff_id"] for row in state.query("SELECT diff_id FROM layers ORDER BY 1")]


def add_layer(state: State, name: str) -> None:
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES (?, 1, 2)", (name,))


def write_and_raise(state: State) -> None:
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('a', 1, 2)")
        raise KeyError


def write_a_reference_to_nothing(state: State) -> None:
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('a', 1, 2)")
        cursor.execute("INSERT INTO refs VALUES ('x:latest', 'sha256:none')")


def test_the_database_is_made_at_first_use_and_is_private(root: HostPath) -> None:
    state = State(root)
    assert not os.path.exists(root)
    assert layers(state) == []
    assert stat.S_IMODE(os.stat(state.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o711
    add_layer(state, "a")
    for name in os.listdir(root):
        if name.startswith("state.db"):
            assert stat.S_IMODE(os.stat(f"{root}/{name}").st_mode) == 0o600
    state.close()


def test_what_is_committed_is_there_for_the_next_one(root: HostPath) -> None:
    first, second = State(root), State(root)
    add_layer(first, "a")
    assert layers(second) == ["a"]
    first.close()
    second.close()
    assert layers(State(root)) == ["a"]


def test_an_exception_rolls_everything_back(root: HostPath) -> None:
    state = State(root)
    with pytest.raises(KeyError):
        write_and_raise(state)
    assert layers(state) == []
    add_layer(state, "b")
    assert layers(state) == ["b"]


def test_a_transaction_in_a_transaction_is_refused_and_the_outer_one_goes_on(root: HostPath) -> None:
    state = State(root)
    with state.transaction() as cursor:
        with pytest.raises(RuntimeError, match="already open"), state.transaction():
            pass
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('a', 1, 2)")
    assert layers(state) == ["a"]


def test_a_read_inside_a_transaction_sees_what_it_wrote(root: HostPath) -> None:
    state = State(root)
    with state.transaction() as cursor:
        cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES ('a', 1, 2)")
        assert layers(state) == ["a"]
        assert layers(State(root)) == []


def test_a_broken_constraint_reaches_the_caller_and_leaves_nothing(root: HostPath) -> None:
    state = State(root)
    with pytest.raises(sqlite3.IntegrityError):
        write_a_reference_to_nothing(state)
    assert layers(state) == []


def test_threads_of_one_state_follow_one_another(root: HostPath) -> None:
    state = State(root)

    def count() -> None:
        for _ in range(20):
            with state.transaction() as cursor:
                number = cursor.execute("SELECT count(*) FROM layers").fetchone()[0]
                cursor.execute("INSERT INTO layers (diff_id, size_bytes, created_ns) VALUES (?, 1, 2)", (number,))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(layers(state)) == 160


def test_a_database_of_a_newer_version_is_refused_and_left_alone(root: HostPath) -> None:
    state = State(root)
    add_layer(state, "a")
    state.close()
    with sqlite3.connect(state.path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StateError, match="made by a newer version"):
        layers(state)
    with pytest.raises(StateError, match="made by a newer version"), state.transaction():
        pass


def test_an_older_database_is_brought_forward(root: HostPath, monkeypatch: pytest.MonkeyPatch) -> None:
    add_layer(State(root), "a")
    steps = "ALTER TABLE layers ADD COLUMN colour TEXT DEFAULT 'blue'; CREATE TABLE more (x)"
    monkeypatch.setattr("plugengine.state.database.MIGRATIONS", ("not run again",) * VERSION + (steps,))
    monkeypatch.setattr("plugengine.state.database.VERSION", VERSION + 1)
    [found] = State(root).query("SELECT diff_id, colour FROM layers")
    assert tuple(found) == ("a", "blue")


def test_a_migration_that_fails_leaves_the_old_version(root: HostPath, monkeypatch: pytest.MonkeyPatch) -> None:
    add_layer(State(root), "a")
    with monkeypatch.context() as patch:
        failing = "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)"
        patch.setattr("plugengine.state.database.MIGRATIONS", ("not run again",) * VERSION + (failing,))
        patch.setattr("plugengine.state.database.VERSION", VERSION + 1)
        with pytest.raises(StateError, match="nowhere"):
            layers(State(root))
    assert layers(State(root)) == ["a"]
    assert not State(root).query("SELECT 1 FROM sqlite_schema WHERE name = 'more'")


@pytest.mark.parametrize("where", [0, 4096], ids=["header", "page"])
def test_a_damaged_database_is_said_to_be_one_with_the_way_out(root: HostPath, where: int) -> None:
    state = State(root)
    for number in range(100):
        add_layer(state, f"layer {number}")
    state.close()
    with open(state.path, "r+b") as stream:
        stream.seek(where)
        stream.write(os.urandom(os.path.getsize(state.path) - where))
    with pytest.raises(StateError) as caught:
        layers(state)
    assert "pe system check --repair" in (caught.value.hint or "")
    assert state.path in caught.value.message


def test_a_transaction_held_too_long_elsewhere_is_an_error_that_says_so(root: HostPath) -> None:
    holder = State(root)
    with holder.transaction():
        connection = sqlite3.connect(holder.path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        connection.close()
    other = sqlite3.connect(holder.path, timeout=0, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="locked") as caught, State(root, patience_s=0.05).transaction():
        pass
    assert "fuser" in (caught.value.hint or "")
    other.execute("ROLLBACK")
    other.close()


def test_a_root_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    state = State(HostPath(str(tmp_path / "file" / "root")))
    with pytest.raises(StateError, match=r"file.*not a directory"):
        layers(state)
