"""Ranges of ids for containers with a user namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugengine.errors import ConflictError, UsageError
from plugengine.model import HostPath, IdRange, UserMap
from plugengine.state import id_ranges
from plugengine.state.state import State

NO_FILES = ("/nonexistent/subuid", "/nonexistent/subgid")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(HostPath(str(tmp_path / "root")))


def files(tmp_path: Path, uid: str, gid: str) -> tuple[str, str]:
    (tmp_path / "subuid").write_text(uid)
    (tmp_path / "subgid").write_text(gid)
    return str(tmp_path / "subuid"), str(tmp_path / "subgid")


def start(user_map: UserMap) -> int:
    assert user_map.uids == user_map.gids
    assert user_map.uids[0].guest == 0
    return user_map.uids[0].host


def test_containers_get_ranges_that_do_not_overlap(state: State) -> None:
    found = [start(id_ranges.allot(state, f"c{number}", subordinate=NO_FILES)) for number in range(5)]
    assert found == [0x1000_0000 + number * 0x1_0000 for number in range(5)]


def test_a_container_keeps_its_range(state: State) -> None:
    first = id_ranges.allot(state, "c1", subordinate=NO_FILES)
    id_ranges.allot(state, "c2", subordinate=NO_FILES)
    assert id_ranges.allot(state, "c1", subordinate=NO_FILES) == first


def test_a_released_range_fills_the_gap(state: State) -> None:
    for number in range(3):
        id_ranges.allot(state, f"c{number}", subordinate=NO_FILES)
    id_ranges.release(state, "c1")
    id_ranges.release(state, "c1")
    assert start(id_ranges.allot(state, "c3", 2 << 16, subordinate=NO_FILES)) == 0x1003_0000
    assert start(id_ranges.allot(state, "c4", 1000, subordinate=NO_FILES)) == 0x1001_0000


def test_ranges_stay_aligned_whatever_was_allotted_before(state: State) -> None:
    id_ranges.allot(state, "small", 1000, subordinate=NO_FILES)
    assert start(id_ranges.allot(state, "c1", subordinate=NO_FILES)) == 0x1001_0000


@pytest.mark.parametrize("user", ["plugengine", "root"])
def test_an_entry_of_ours_is_used_and_its_end_respected(state: State, tmp_path: Path, user: str) -> None:
    found = files(tmp_path, f"joe:100000:65536\n{user}:200000:131072\n", f"{user}:200000:131072\n")
    assert start(id_ranges.allot(state, "c1", subordinate=found)) == 200_000
    assert start(id_ranges.allot(state, "c2", subordinate=found)) == 265_536
    with pytest.raises(ConflictError, match="no 65536 of the ranges of /etc/subuid"):
        id_ranges.allot(state, "c3", subordinate=found)
    id_ranges.release(state, "c1")
    assert start(id_ranges.allot(state, "c3", subordinate=found)) == 200_000


def test_user_and_group_ids_of_an_entry_are_used_where_they_agree(state: State, tmp_path: Path) -> None:
    found = files(tmp_path, "plugengine:200000:100000\n", "plugengine:210000:70000\n")
    assert start(id_ranges.allot(state, "c1", subordinate=found)) == 210_000
    with pytest.raises(ConflictError, match="no 65536 of the ranges of /etc/subuid"):
        id_ranges.allot(state, "c2", subordinate=found)


def test_the_own_name_wins_over_root(state: State, tmp_path: Path) -> None:
    both = "root:100000:65536\nplugengine:300000:65536\n"
    assert start(id_ranges.allot(state, "c1", subordinate=files(tmp_path, both, both))) == 300_000


def test_the_default_range_avoids_entries_of_others_and_lines_without_sense(state: State, tmp_path: Path) -> None:
    others = f"joe:{0x1000_0000}:100000\n\n# comment\n:5:6\nx:y:z\nann:1\n"
    assert start(id_ranges.allot(state, "c1", subordinate=files(tmp_path, others, ""))) == 0x1002_0000


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_not_positive_is_refused(state: State, size: int) -> None:
    with pytest.raises(UsageError, match=f"size {size}"):
        id_ranges.allot(state, "c1", size, subordinate=NO_FILES)


def test_more_than_there_is_is_refused(state: State) -> None:
    with pytest.raises(ConflictError, match=f"^user ids: no {1 << 31} of the default range are free$"):
        id_ranges.allot(state, "c1", 1 << 31, subordinate=NO_FILES)
    assert start(id_ranges.allot(state, "c1", subordinate=NO_FILES)) == 0x1000_0000, "nothing was taken"


def test_ranges_of_containers_that_do_not_exist_are_collected(state: State) -> None:
    id_ranges.allot(state, "gone", subordinate=NO_FILES)
    assert id_ranges.gc(state) == [f"ids {0x1000_0000}+65536 of container gone"]
    assert id_ranges.gc(state) == []


def chosen(uid: int, gid: int, size: int) -> UserMap:
    return UserMap(uids=(IdRange(guest=0, host=uid, size=size),), gids=(IdRange(guest=0, host=gid, size=size),))


def test_ids_asked_for_by_number_are_nobody_else_s(state: State) -> None:
    id_ranges.claim(state, "c1", chosen(200_000, 400_000, 1000))
    for uid, gid in ((200_999, 600_000), (600_000, 399_001), (400_500, 600_000), (200_000, 400_000)):
        said = f"container c1 has {200_000 if uid < 300_000 else 400_000} to"
        with pytest.raises(ConflictError, match=said):
            id_ranges.claim(state, "c2", chosen(uid, gid, 1000))
        with pytest.raises(ConflictError, match=said):
            id_ranges.check_free(state, chosen(uid, gid, 1000))
    id_ranges.claim(state, "c2", chosen(201_000, 401_000, 1000))
    id_ranges.claim(state, "c2", chosen(201_000, 401_000, 1000))


def test_what_is_allotted_and_what_is_asked_for_keep_apart(state: State) -> None:
    first = start(id_ranges.allot(state, "c1", subordinate=NO_FILES))
    with pytest.raises(ConflictError, match="container c1 has"):
        id_ranges.claim(state, "c2", chosen(first + 65535, first + (9 << 16), 10))
    id_ranges.claim(state, "c2", chosen(first + (1 << 16), first + (2 << 16), 10))
    assert start(id_ranges.allot(state, "c3", subordinate=NO_FILES)) == first + (3 << 16)


def test_ids_only_looked_at_stay_free(state: State) -> None:
    id_ranges.check_free(state, chosen(200_000, 200_000, 10))
    id_ranges.claim(state, "c2", chosen(200_000, 200_000, 10))
    id_ranges.release(state, "c2")
    id_ranges.claim(state, "c3", chosen(200_005, 200_005, 10))
    assert id_ranges.next_free(state, subordinate=NO_FILES) == id_ranges.next_free(state, subordinate=NO_FILES)
