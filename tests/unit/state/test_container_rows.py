"""The containers' rows: names, prefixes, compare-and-set, and what goes with a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugengine.errors import ConflictError, NotFoundError, StateError, UsageError
from plugengine.kernel.process import ProcessId
from plugengine.model import GuestPath, HostPath, Limits, Port
from plugengine.objects import ContainerState
from plugengine.spec import ContainerSpec, DriverChoice, VolumeMount
from plugengine.state import container_rows as rows
from plugengine.state.container_rows import ContainerRow
from plugengine.state.names import new_id
from plugengine.state.state import State

CHOICE = DriverChoice(storage="s", network="n", cgroup="c", namespace="l", storage_options={"size": "1g"})


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(HostPath(str(tmp_path)))


def make(
    state: State, name: str = "web", *, container_id: str | None = None, status: str = "created", created_ns: int = 1
) -> ContainerRow:
    row = ContainerRow(
        id=container_id or new_id(),
        name=name,
        status=status,
        created_ns=created_ns,
        image_id="",
        image_name="host:base",
        spec=ContainerSpec(image="host:base", command=("true",)),
        choice=CHOICE,
    )
    return rows.insert(state, row)


def test_a_row_comes_back_as_it_was_stored(state: State) -> None:
    row = ContainerRow(
        id=new_id(),
        name="web",
        status="running",
        created_ns=1_700_000_000_123_456_789,
        image_id="",
        image_name="x:latest",
        spec=ContainerSpec(
            image="x",
            entrypoint=(),
            labels={"a": "b"},
            ports=(Port(host_ip="127.0.0.1", host_port=8080, guest_port=80),),
            mounts=(VolumeMount(type="tmpfs", target=GuestPath("/t"), options=(("size", "1m"), ("noexec", None))),),
            limits=Limits(memory_bytes=1 << 40),
            tty=True,
        ),
        choice=CHOICE,
        state=ContainerState(pid=7, pid_start=8, exit_code=0, warnings=("one", "two")),
        records={"storage": {"upper": "/u"}, "network": None},
        owner=ProcessId(12, 34),
        boot_id="b",
    )
    assert rows.insert(state, row) == row
    assert rows.get(state, "web") == row
    assert rows.list_all(state) == [row]


def test_a_container_is_found_by_id_name_and_any_unique_beginning_of_its_id(state: State) -> None:
    one = make(state, "one", container_id="ab" + "0" * 62)
    two = make(state, "two", container_id="ac" + "0" * 62)
    for reference in (one.id, "one", "/one", "ab", "ab0", one.id[:12]):
        assert rows.get(state, reference) == one
    assert rows.get(state, "ac") == two


def test_an_id_wins_over_a_name_and_a_name_over_a_prefix(state: State) -> None:
    one = make(state, "one", container_id="ab" + "0" * 62)
    named_like_one = make(state, one.id)
    named_like_prefix = make(state, "ab")
    assert rows.get(state, one.id) == one
    assert rows.get(state, "ab") == named_like_prefix
    assert rows.get(state, named_like_one.id) == named_like_one


def test_a_prefix_of_two_ids_is_refused(state: State) -> None:
    make(state, "one", container_id="ab" + "0" * 62)
    make(state, "two", container_id="ac" + "0" * 62)
    with pytest.raises(UsageError, match="container a: several"):
        rows.get(state, "a")


@pytest.mark.parametrize("reference", ["wep", "", "%", "ab", "f" * 64, "*", "a\0", "'"])
def test_what_is_not_there_is_not_found(state: State, reference: str) -> None:
    make(state, "web", container_id="cc" + "0" * 62)
    with pytest.raises(NotFoundError) as caught:
        rows.get(state, reference)
    assert (caught.value.hint == "did you mean web?") == (reference == "wep")


def test_a_name_in_use_is_a_conflict_that_names_its_owner(state: State) -> None:
    first = make(state, "web")
    with pytest.raises(ConflictError) as caught:
        make(state, "web")
    assert caught.value.message == f"container name web: in use by container {first.id}"
    assert caught.value.hint
    assert rows.ids(state) == {first.id}


def test_without_a_name_one_is_invented(state: State) -> None:
    found = {make(state, "").name for _ in range(40)}
    assert len(found) == 40
    assert all(rows.get(state, name).name == name for name in found)


def test_an_image_removed_in_the_meantime_is_noticed(state: State) -> None:
    row = ContainerRow(
        id=new_id(),
        name="",
        status="creating",
        created_ns=1,
        image_id="sha256:gone",
        image_name="x:latest",
        spec=ContainerSpec(image="x"),
        choice=CHOICE,
    )
    with pytest.raises(NotFoundError, match="image x:latest: removed in the meantime"):
        rows.insert(state, row)
    assert rows.ids(state) == frozenset()


def test_a_list_is_filtered_by_status_and_begins_with_the_newest(state: State) -> None:
    make(state, "old", status="exited", created_ns=1)
    make(state, "new", status="running", created_ns=3)
    make(state, "mid", status="exited", created_ns=2)
    assert [row.name for row in rows.list_all(state)] == ["new", "mid", "old"]
    assert [row.name for row in rows.list_all(state, ("exited", "dead"))] == ["mid", "old"]
    assert rows.list_all(state, ()) == []


def test_an_update_changes_what_is_given_and_nothing_else(state: State) -> None:
    row = make(state)
    rows.update(state, row.id, status="starting", owner=ProcessId(1, 2), boot_id="b", records={"network": {"x": 1}})
    rows.update(state, row.id, container_state=ContainerState(pid=9))
    found = rows.get(state, row.id)
    assert (found.status, found.owner, found.boot_id) == ("starting", (1, 2), "b")
    assert (found.records, found.state.pid, found.spec) == ({"network": {"x": 1}}, 9, row.spec)
    rows.update(state, row.id, owner=None)
    assert rows.get(state, row.id).owner is None


def test_an_update_that_expects_another_status_changes_nothing_and_names_the_status(state: State) -> None:
    row = make(state, status="exited")
    with pytest.raises(ConflictError, match="container web: is exited, not running or paused"):
        rows.update(state, row.id, status="exited", expect=("running", "paused"))
    assert rows.get(state, row.id) == row
    rows.update(state, row.id, expect=("exited",))
    rows.update(state, row.id, status="removing", expect=("exited",))
    assert rows.get(state, row.id).status == "removing"


def test_an_update_of_nothing_is_not_found(state: State) -> None:
    with pytest.raises(NotFoundError):
        rows.update(state, "0" * 64, status="running")


def test_a_rename_keeps_names_unique(state: State) -> None:
    one = make(state, "one")
    make(state, "two")
    with pytest.raises(ConflictError, match="container name two: in use"):
        rows.rename(state, one.id, "two")
    with pytest.raises(UsageError):
        rows.rename(state, one.id, "../x")
    rows.rename(state, one.id, "one")
    rows.rename(state, one.id, "three")
    assert rows.get(state, "three").id == one.id
    with pytest.raises(NotFoundError):
        rows.rename(state, "0" * 64, "four")


def test_a_deleted_container_takes_leases_ids_and_uses_with_it(state: State) -> None:
    row, other = make(state, "one"), make(state, "two")
    with state.transaction() as cursor:
        for number, each in enumerate((row, other)):
            cursor.execute("INSERT INTO leases VALUES ('n', ?, ?)", (str(number), each.id))
            cursor.execute("INSERT INTO id_ranges VALUES (?, 1, ?)", (number, each.id))
            cursor.execute("INSERT INTO volume_uses VALUES ('v', ?)", (each.id,))
    rows.delete(state, row.id)
    rows.delete(state, row.id)
    assert rows.ids(state) == {other.id}
    for table in ("leases", "id_ranges", "volume_uses"):
        assert [found["container_id"] for found in state.query(f"SELECT container_id FROM {table}")] == [other.id]


def test_a_row_that_cannot_be_read_names_the_container(state: State) -> None:
    row = make(state)
    with state.transaction() as cursor:
        cursor.execute("UPDATE containers SET spec = '{\"image\": 5}'")
    with pytest.raises(StateError, match=row.id):
        rows.get(state, "web")


def test_fields_of_a_newer_version_are_ignored(state: State) -> None:
    make(state)
    with state.transaction() as cursor:
        cursor.execute('UPDATE containers SET state = \'{"pid": 5, "later": [1]}\'')
    assert rows.get(state, "web").state == ContainerState(pid=5)
