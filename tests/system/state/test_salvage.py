"""A damaged state database: noticed, and saved as far as it can be read."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from plugengine.errors import StateError
from plugengine.model import HostPath
from plugengine.spec import ContainerSpec, DriverChoice
from plugengine.state import container_rows, rescue
from plugengine.state.container_rows import ContainerRow
from plugengine.state.names import new_id
from plugengine.state.state import State

PAGE = 4096


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(HostPath(str(tmp_path / "root")))


def fill(state: State, count: int) -> set[str]:
    for number in range(count):
        row = ContainerRow(
            id=new_id(),
            name=f"c{number}",
            status="exited",
            created_ns=number,
            image_id="",
            image_name="x",
            spec=ContainerSpec(image="x", env=("PADDING=" + "x" * 1000,)),
            choice=DriverChoice(storage="s", network="n", cgroup="c", namespace="l"),
        )
        container_rows.insert(state, row)
        with state.transaction() as cursor:
            cursor.execute("INSERT INTO leases VALUES ('bridge', ?, ?)", (f"10.88.0.{number}", row.id))
    return set(container_rows.ids(state))


def scribble(path: str, begin: int, length: int) -> None:
    with open(path, "r+b") as stream:
        stream.seek(begin)
        stream.write(os.urandom(length))


def test_a_sound_database_is_left_alone(state: State) -> None:
    known = fill(state, 3)
    assert rescue.check(state, repair=True) == []
    assert container_rows.ids(state) == known
    assert [name for name in os.listdir(state.root) if "damaged" in name] == []


def test_a_page_of_rows_is_lost_and_the_others_are_saved(state: State) -> None:
    known = fill(state, 60)
    root_page = state.query("SELECT rootpage FROM sqlite_schema WHERE name = 'containers'")[0][0]
    state.close()
    pages = os.path.getsize(state.path) // PAGE
    leaf = pages - 12  # of the containers, which take most pages
    assert leaf > root_page
    scribble(state.path, leaf * PAGE, PAGE)
    found = rescue.check(state, repair=False)
    assert found
    assert all(state.path in line for line in found)
    lines = rescue.check(state, repair=True)
    assert any(line.startswith("containers: ") and line.endswith("rows saved, some lost") for line in lines)
    saved = container_rows.ids(state)
    assert saved < known
    assert len(saved) >= len(known) - 20
    assert rescue.check(state, repair=False) == []
    # Both ends of the table are there: the scan went on behind the damaged page.
    assert {"c0", "c59"} <= {row.name for row in container_rows.list_all(state)}


def test_a_database_whose_header_is_gone_becomes_an_empty_one_and_the_damaged_file_is_kept(state: State) -> None:
    fill(state, 3)
    state.close()
    scribble(state.path, 0, 100)
    with pytest.raises(StateError, match="not a database"):
        container_rows.ids(state)
    lines = rescue.check(state, repair=True)
    kept = [name for name in os.listdir(state.root) if "damaged" in name]
    assert len(kept) == 1
    assert any(kept[0] in line for line in lines)
    assert container_rows.ids(state) == frozenset()
    fill(state, 1)
    assert os.listdir(f"{state.root}/tmp") == []


def test_a_reference_to_nothing_is_damage_and_goes(state: State) -> None:
    fill(state, 2)
    state.close()
    connection = sqlite3.connect(state.path, isolation_level=None)
    connection.execute("INSERT INTO refs VALUES ('x:latest', 'sha256:none')")
    connection.close()
    assert rescue.check(state, repair=False) == [f"state database {state.path}: a row of refs refers to nothing"]
    rescue.check(state, repair=True)
    assert rescue.check(state, repair=False) == []
    assert len(container_rows.ids(state)) == 2


def test_rows_in_the_log_are_saved_too(state: State) -> None:
    """The log is read with the damaged file and does not stay beside the new one."""
    known = fill(state, 3)
    raw = sqlite3.connect(state.path, isolation_level=None)
    raw.execute("INSERT INTO refs VALUES ('x:latest', 'sha256:none')")
    assert os.path.getsize(f"{state.path}-wal") > 0
    rescue.check(State(state.root), repair=True)
    raw.close()
    state.close()
    assert container_rows.ids(State(state.root)) == known
    assert rescue.check(State(state.root), repair=False) == []


def test_a_database_of_a_newer_version_is_no_damage(state: State) -> None:
    fill(state, 1)
    with state.transaction() as cursor:
        cursor.execute("PRAGMA user_version = 99")
    state.close()
    with pytest.raises(StateError, match="newer version"):
        rescue.check(state, repair=True)
    assert [name for name in os.listdir(state.root) if "damaged" in name] == []
