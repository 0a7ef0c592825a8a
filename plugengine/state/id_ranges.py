"""Ranges of user and group ids of the host that containers have, allotted (`--userns auto`) or asked for by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from plugengine.errors import ConflictError, UsageError
from plugengine.model import IdRange, UserMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

    from plugengine.state.state import State

DEFAULT_SIZE: Final = 1 << 16  # nobody is 65534
_FILES: Final = ("/etc/subuid", "/etc/subgid")
_USERS: Final = ("plugengine", "root")  # the first one with an entry in both files is used
# Without an entry: high ids that no login and no usual subordinate range uses, aligned as systemd does, so that the
# upper half of an id names the container; the end is below 2^31, which some programs take for negative.
_OF_OTHERS: Final = (
    "SELECT start, size, coalesce(containers.name, container_id) AS owner FROM id_ranges "
    "LEFT JOIN containers ON containers.id = container_id WHERE container_id <> ? ORDER BY start"
)
_DEFAULT_POOL: Final = range(0x1000_0000, 0x7000_0000)


def allot(
    state: State, container_id: str, size: int = DEFAULT_SIZE, *, subordinate: tuple[str, str] = _FILES
) -> UserMap:
    """Allot ids to a container; one that has some keeps them.

    Args:
        state: The state database.
        container_id: Whose ids they are.
        size: How many; the guest sees 0 … size - 1.
        subordinate: The files of subuid(5) and subgid(5).

    Raises:
        ConflictError: No range of that size is free.
        UsageError: The size is not positive.
    """
    if size <= 0:
        raise UsageError(f"user ids for container {container_id}: size {size} is not positive")
    entries = [_entries(path) for path in subordinate]
    with state.transaction() as cursor:
        mine = cursor.execute(
            "SELECT start, size FROM id_ranges WHERE container_id = ? AND size >= ?", (container_id, size)
        ).fetchone()
        if mine is not None:
            return _user_map(mine["start"], mine["size"])
        start = _free_start(cursor, entries, size)
        cursor.execute("INSERT INTO id_ranges VALUES (?, ?, ?)", (start, size, container_id))
    return _user_map(start, size)


def next_free(state: State, size: int = DEFAULT_SIZE, *, subordinate: tuple[str, str] = _FILES) -> UserMap:
    """Return what `allot` gives a new container, unless another is faster. Raises as `allot`."""
    entries = [_entries(path) for path in subordinate]
    with state.transaction() as cursor:
        return _user_map(_free_start(cursor, entries, size), size)


def check_free(state: State, wanted: UserMap, container_id: str = "") -> None:
    """Look whether ids that were asked for by number are nobody else's.

    Raises:
        ConflictError: Another container has some of them, as user or as group ids.
    """
    _refuse_overlap(wanted, state.query(_OF_OTHERS, (container_id,)))


def claim(state: State, container_id: str, wanted: UserMap) -> None:
    """Enter ids that were asked for by number, as user and as group ids, so that no other container gets them.

    Raises:
        ConflictError: Another container has some of them, as user or as group ids.
    """
    with state.transaction() as cursor:
        _refuse_overlap(wanted, cursor.execute(_OF_OTHERS, (container_id,)))
        cursor.executemany(
            "INSERT OR IGNORE INTO id_ranges VALUES (?, ?, ?)",
            [(ids.start, len(ids), container_id) for ids in _ranges(wanted)],
        )


def _ranges(wanted: UserMap) -> list[range]:
    """Return the ranges of the host, those that are both user and group ids once."""
    found = dict.fromkeys((one.host, one.size) for one in (*wanted.uids, *wanted.gids))
    return [range(start, start + size) for start, size in found]


def _refuse_overlap(wanted: UserMap, rows: Iterable[sqlite3.Row]) -> None:
    taken = list(rows)
    for ids in _ranges(wanted):
        for row in taken:
            if ids.start < row["start"] + row["size"] and row["start"] < ids.stop:
                raise ConflictError(
                    f"ids {ids.start} to {ids.stop - 1}: container {row['owner']} has {row['start']} to"
                    f" {row['start'] + row['size'] - 1}",
                    hint="two containers with the same ids are not kept apart; choose others, or --userns auto",
                )


def release(state: State, container_id: str) -> None:
    """Give the ids of a container back; none to give back is fine."""
    with state.transaction() as cursor:
        cursor.execute("DELETE FROM id_ranges WHERE container_id = ?", (container_id,))


def gc(state: State) -> list[str]:
    """Give back ids of containers that do not exist; return a line for each."""
    with state.transaction() as cursor:
        rows = cursor.execute(
            "DELETE FROM id_ranges WHERE container_id NOT IN (SELECT id FROM containers) RETURNING *"
        ).fetchall()
    return [f"ids {row['start']}+{row['size']} of container {row['container_id']}" for row in rows]


def _user_map(start: int, size: int) -> UserMap:
    ranges = (IdRange(guest=0, host=start, size=size),)
    return UserMap(uids=ranges, gids=ranges)


def _free_start(cursor: sqlite3.Cursor, entries: list[dict[str, list[range]]], size: int) -> int:
    rows = cursor.execute("SELECT start, size FROM id_ranges")
    taken = [range(row["start"], row["start"] + row["size"]) for row in rows]
    pools = _own_pools(entries)
    if pools:
        where = f"the ranges of {_FILES[0]} and {_FILES[1]}"
    else:
        pools, where = [_DEFAULT_POOL], "the default range"
        taken += [each for by_user in entries for ranges in by_user.values() for each in ranges]
    taken.sort(key=lambda each: each.start)
    for pool in pools:
        for start in _gaps(pool, taken, size):
            return start
    raise ConflictError(
        f"user ids: no {size} of {where} are free",
        hint="remove containers that are no longer needed, or ask for fewer ids",
    )


def _gaps(pool: range, taken: list[range], size: int) -> Iterator[int]:
    """Yield the beginning of every gap of a pool that holds `size` ids; `taken` is sorted."""
    start = pool.start
    for each in taken:
        if each.stop <= start:
            continue
        if min(each.start, pool.stop) - start >= size:
            yield start
        start = max(start, each.stop)
        if pool is _DEFAULT_POOL:
            start = -(-start // DEFAULT_SIZE) * DEFAULT_SIZE
    if pool.stop - start >= size:
        yield start


def _own_pools(entries: list[dict[str, list[range]]]) -> list[range]:
    """Return the ranges that are ours as user ids and as group ids: one number stands for both."""
    uids, gids = entries
    for user in _USERS:
        if user in uids and user in gids:
            both = [
                range(max(one.start, other.start), min(one.stop, other.stop))
                for one in uids[user]
                for other in gids[user]
            ]
            return [each for each in both if each]
    return []


def _entries(path: str) -> dict[str, list[range]]:
    """Return user to ranges of a file of subuid(5); lines that make no sense are passed over, as shadow does."""
    found: dict[str, list[range]] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            lines = stream.readlines()
    except FileNotFoundError:
        return found
    for line in lines:
        user, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if user and start.isdecimal() and count.isdecimal():
            found.setdefault(user, []).append(range(int(start), int(start) + int(count)))
    return found
