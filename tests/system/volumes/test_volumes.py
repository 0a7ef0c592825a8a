"""Volumes: rows and directories together, use, removal, repair."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from plugengine import volumes
from plugengine.errors import ConflictError, NotFoundError, UsageError
from plugengine.spec import ContainerSpec, DriverChoice
from plugengine.state import container_rows
from plugengine.state.container_rows import ContainerRow
from plugengine.state.locations import Locations
from plugengine.state.names import new_id
from plugengine.state.state import State
from tests.waiting import PATIENCE_S


def container(state: State, name: str) -> str:
    row = ContainerRow(
        id=new_id(),
        name=name,
        status="created",
        created_ns=1,
        image_id="",
        image_name="x",
        spec=ContainerSpec(image="x"),
        choice=DriverChoice(storage="s", network="n", cgroup="c", namespace="l"),
    )
    return container_rows.insert(state, row).id


def test_a_new_volume_is_an_empty_directory_that_only_root_reaches(state: State, locations: Locations) -> None:
    made = volumes.create(state, locations, "data", labels={"a": "b"}, options={"o": "p"})
    assert volumes.get(state, "data") == made
    assert (made.labels, made.options, made.anonymous) == ({"a": "b"}, {"o": "p"}, False)
    data = locations.volume_data("data")
    assert os.listdir(data) == []
    assert stat.S_IMODE(os.stat(data).st_mode) == 0o755
    assert stat.S_IMODE(os.stat(os.path.dirname(data)).st_mode) == 0o700


def test_making_a_volume_again_keeps_it(state: State, locations: Locations) -> None:
    first = volumes.create(state, locations, "data", labels={"a": "b"})
    Path(locations.volume_data("data"), "f").touch()
    assert volumes.create(state, locations, "data") == first
    assert volumes.ensure(state, locations, "data") == first
    assert os.listdir(locations.volume_data("data")) == ["f"]


def test_anonymous_volumes_have_names_of_their_own(state: State, locations: Locations) -> None:
    one = volumes.create(state, locations, anonymous=True)
    two = volumes.create(state, locations, anonymous=True)
    assert one.name != two.name
    assert one.anonymous


@pytest.mark.parametrize("name", ["..", "../x", "/x", "a/b", "", ".hidden"])
def test_a_name_that_could_lead_elsewhere_is_refused(state: State, locations: Locations, name: str) -> None:
    with pytest.raises(UsageError):
        volumes.create(state, locations, name)
    assert os.listdir(locations.volumes) == []
    assert volumes.list_all(state) == []


def test_a_volume_in_use_stays_and_the_error_names_its_users(state: State, locations: Locations) -> None:
    volumes.create(state, locations, "data")
    web, db = container(state, "web"), container(state, "db")
    for user in (web, db, db):
        volumes.use(state, "data", user)
    assert sorted(volumes.users(state, "data")) == sorted((web, db))
    with pytest.raises(ConflictError, match="volume data: in use by container db, web"):
        volumes.remove(state, locations, "data")
    assert os.path.isdir(locations.volume_data("data"))
    container_rows.delete(state, web)
    container_rows.delete(state, db)
    volumes.remove(state, locations, "data")
    assert volumes.list_all(state) == []
    assert os.listdir(locations.volumes) == os.listdir(locations.tmp) == []


def test_what_is_not_there_is_not_found(state: State, locations: Locations) -> None:
    volumes.create(state, locations, "data")
    with pytest.raises(NotFoundError) as caught:
        volumes.remove(state, locations, "date")
    assert caught.value.hint == "did you mean data?"
    with pytest.raises(NotFoundError):
        volumes.get(state, "date")
    with pytest.raises(NotFoundError):
        volumes.use(state, "date", "c1")


def test_a_containers_volumes_are_told_apart(state: State, locations: Locations) -> None:
    user = container(state, "web")
    unnamed = volumes.create(state, locations, anonymous=True).name
    volumes.create(state, locations, "data")
    for name in (unnamed, "data"):
        volumes.use(state, name, user)
    assert set(volumes.used_by(state, user)) == {unnamed, "data"}
    assert volumes.used_by(state, user, anonymous=True) == [unnamed]
    assert volumes.used_by(state, user, anonymous=False) == ["data"]


def test_unused_volumes_can_be_listed_for_pruning(state: State, locations: Locations) -> None:
    volumes.create(state, locations, "used")
    volumes.use(state, "used", container(state, "web"))
    volumes.create(state, locations, "idle")
    unnamed = volumes.create(state, locations, anonymous=True).name
    assert {volume.name for volume in volumes.unused(state)} == {"idle", unnamed}
    assert [volume.name for volume in volumes.unused(state, anonymous_only=True)] == [unnamed]


def test_repair_loses_no_data(state: State, locations: Locations) -> None:
    volumes.create(state, locations, "kept")
    volumes.use(state, "kept", "f" * 64)
    lost_row = Path(locations.volume_data("kept")).parent.parent / "stray" / "_data"
    lost_row.mkdir(parents=True)
    (lost_row / "precious").touch()
    volumes.create(state, locations, "bare")
    os.rmdir(locations.volume_data("bare"))
    Path(locations.tmp, "volume-abc").mkdir()
    Path(locations.tmp, "of others").mkdir()
    expected = [
        "volume stray: has data but no row",
        "volume bare: its directory is missing",
        f"volume kept: used by container {'f' * 64}, which does not exist",
        f"directory {locations.tmp}/volume-abc: left by the removal of a volume",
    ]
    assert volumes.check(state, locations, repair=False) == expected
    assert volumes.check(state, locations, repair=True) == expected
    assert volumes.check(state, locations, repair=True) == []
    assert [volume.name for volume in volumes.list_all(state)] == ["bare", "kept", "stray"]
    assert os.listdir(locations.volume_data("stray")) == ["precious"]
    assert os.listdir(locations.tmp) == ["of others"]


def test_processes_that_make_and_remove_one_volume_at_once_leave_both_or_neither(
    state: State, locations: Locations
) -> None:
    script = """
import sys
from plugengine import volumes
from plugengine.errors import NotFoundError
from plugengine.state.locations import Locations
from plugengine.state.state import State
locations = Locations(sys.argv[1], sys.argv[2])
state = State(locations.root)
for _ in range(20):
    volumes.create(state, locations, "data")
    try:
        volumes.remove(state, locations, "data")
    except NotFoundError:
        pass
"""
    command = [sys.executable, "-c", script, locations.root, locations.run_root]
    crowd = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for each in crowd:
        _, errors = each.communicate(timeout=PATIENCE_S)
        assert each.returncode == 0, errors
    assert volumes.check(state, locations, repair=False) == []
