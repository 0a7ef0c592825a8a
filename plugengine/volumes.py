"""Volumes: directories that outlive containers, with or without a name, filled from the image when new."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

from plugengine.errors import ConflictError, NotFoundError, StateError, UsageError
from plugengine.kernel.files import names_in, open_in_root
from plugengine.model import UserMap
from plugengine.state.locations import directory_error
from plugengine.state.names import ID_LENGTH, check_name, near_miss, new_id
from plugengine.trees.copy import TreeCopy, inverse
from plugengine.trees.remove import remove_tree
from plugengine.trees.walk import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from plugengine.state.locations import Locations
    from plugengine.state.state import State

_DIRECTORY_MODE: Final = 0o700
_DATA_MODE: Final = 0o755  # as docker's
_FILLING: Final = "filling"  # a file beside the data while it is being filled
_HEX: Final = frozenset("0123456789abcdef")
_DOES_NOT_LEAD_TO_A_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Volume(Struct, frozen=True, kw_only=True):
    """One volume."""

    name: str
    anonymous: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0


def create(
    state: State,
    locations: Locations,
    name: str | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    anonymous: bool = False,
    user: str | None = None,
) -> Volume:
    """Make an empty volume; one of that name is returned as it is.

    Args:
        state: The state database.
        locations: Where volumes are.
        name: Its name; None: one is invented.
        labels: For the caller's own use.
        options: Likewise; none has a meaning yet.
        anonymous: It goes when its container is removed with its volumes.
        user: The id of a container that uses it from the first moment; see `use`.

    Raises:
        UsageError: The name is not allowed.
        StateError: Its directory cannot be made.
        NoSpaceError: The filesystem is full.
    """
    volume = Volume(
        name=new_id() if name is None else check_name(name, what="volume"),
        anonymous=anonymous,
        labels=labels or {},
        options=options or {},
        created_ns=time.time_ns(),
    )
    with state.transaction() as cursor:
        _insert(cursor, volume)
        # Inside, because another process may be removing the volume of that name, and renames it in a transaction.
        _make_directories(locations, volume.name)
        if user is not None:
            cursor.execute("INSERT OR IGNORE INTO volume_uses VALUES (?, ?)", (volume.name, user))
        return _decode(cursor.execute("SELECT * FROM volumes WHERE name = ?", (volume.name,)).fetchone())


def ensure(state: State, locations: Locations, name: str) -> Volume:
    """Return the volume of that name, made when there is none. Raises as `create`."""
    return create(state, locations, name)


def get(state: State, name: str) -> Volume:
    """Return one volume.

    Raises:
        NotFoundError: There is none of that name.
    """
    for row in state.query("SELECT * FROM volumes WHERE name = ?", (name,)):
        return _decode(row)
    raise _not_found(name, [row["name"] for row in state.query("SELECT name FROM volumes")])


def list_all(state: State) -> list[Volume]:
    """Return all volumes by name."""
    return [_decode(row) for row in state.query("SELECT * FROM volumes ORDER BY name")]


def unused(state: State, *, anonymous_only: bool = False) -> list[Volume]:
    """Return the volumes no container uses, which may be pruned."""
    rows = state.query(
        "SELECT * FROM volumes WHERE name NOT IN (SELECT volume FROM volume_uses) AND anonymous >= ? ORDER BY name",
        (int(anonymous_only),),
    )
    return [_decode(row) for row in rows]


def remove(state: State, locations: Locations, name: str, *, user: str = "") -> None:
    """Remove a volume and its data.

    Args:
        state: The state database.
        locations: Where volumes are.
        name: Its name.
        user: The id of a container that is being removed itself: its use does not count.

    Raises:
        NotFoundError: There is none of that name.
        ConflictError: A container uses it.
    """
    doomed = f"{locations.tmp}/volume-{new_id()}"
    with state.transaction() as cursor:
        rows = cursor.execute(
            "SELECT coalesce(containers.name, container_id) AS user FROM volume_uses "
            "LEFT JOIN containers ON containers.id = container_id WHERE volume = ? AND container_id <> ? ORDER BY 1",
            (name, user),
        ).fetchall()
        if rows:
            raise ConflictError(f"volume {name}: in use by container {', '.join(row['user'] for row in rows)}")
        cursor.execute("DELETE FROM volumes WHERE name = ?", (name,))
        if cursor.rowcount == 0:
            raise _not_found(name, [row["name"] for row in cursor.execute("SELECT name FROM volumes")])
        try:
            os.rename(locations.volume(name), doomed)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise directory_error("remove volume", exc, locations.volume(name)) from exc
    remove_tree(doomed)


def use(state: State, name: str, container_id: str) -> None:
    """Note that a container uses a volume: from now on it cannot be removed.

    Undone by: `container_rows.delete`.

    Raises:
        NotFoundError: There is none of that name.
    """
    with state.transaction() as cursor:
        if cursor.execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone() is None:
            raise _not_found(name, [])
        cursor.execute("INSERT OR IGNORE INTO volume_uses VALUES (?, ?)", (name, container_id))


def used_by(state: State, container_id: str, *, anonymous: bool | None = None) -> list[str]:
    """Return the names of the volumes a container uses: all, the anonymous ones, or the others."""
    rows = state.query(
        "SELECT name FROM volumes JOIN volume_uses ON volume = name "
        "WHERE container_id = ?1 AND (?2 IS NULL OR anonymous = ?2) ORDER BY name",
        (container_id, anonymous),
    )
    return [row["name"] for row in rows]


def users(state: State, name: str) -> list[str]:
    """Return the ids of the containers that use a volume."""
    rows = state.query("SELECT container_id FROM volume_uses WHERE volume = ? ORDER BY 1", (name,))
    return [row["container_id"] for row in rows]


def check_subpath(name: str, subpath: str) -> str:
    """Return the path of a directory or file in a volume, if it can be one; it need not exist yet.

    Where it leads is looked up by `guest.sources` at each start, below the volume's descriptor: whoever can write the
    volume decides what is there, and may change it at any time.

    Raises:
        UsageError: It is absolute, leads out of the volume by words alone, or is no path.
    """
    normal = os.path.normpath(subpath)
    if normal.startswith(("/", "../")) or normal == ".." or "\0" in subpath:
        raise UsageError(f"volume {name}: path {subpath!r} in it: not a relative path that stays in the volume")
    return subpath


def fill(rootfs: str, guest: str, data: str, user_map: UserMap | None = None) -> None:
    """Copy what an image has at a path into a new, empty volume, with the directory's own owner and mode.

    A volume that has content stays as it is, and so does one for whose path the image has no directory. The path is
    resolved inside the root filesystem (CVE-2022-23648); a copy cut short by a crash is begun anew.

    Args:
        rootfs: The mounted root filesystem, not yet run.
        guest: Absolute path in it.
        data: The volume's data directory.
        user_map: The root filesystem shows owners outside this map; the volume keeps those inside.

    Raises:
        StateError: The copy failed; the volume is empty again.
        NoSpaceError: Likewise, for want of space.
    """
    source_fd = _open_guest_directory(rootfs, guest)
    if source_fd < 0:
        return
    volume_fd = os.open(os.path.dirname(data), DIRECTORY)
    try:
        # The lock of a killed process is gone with it, its mark is not.
        fcntl.flock(volume_fd, fcntl.LOCK_EX)
        _fill_locked(source_fd, volume_fd, data, None if user_map is None else inverse(user_map))
    except OSError as exc:
        raise directory_error(f"copy {guest} of the image into volume", exc, data) from exc
    finally:
        os.close(volume_fd)
        os.close(source_fd)


def check(state: State, locations: Locations, *, repair: bool) -> list[str]:
    """Return what is wrong between volumes' rows and directories; with `repair`, put it right and lose no data.

    A directory without a row becomes a volume again; a row without its directory gets an empty one; uses by
    containers that do not exist are forgotten; what removals left is removed.
    """
    rows = {row["name"] for row in state.query("SELECT name FROM volumes")}
    directories = set(_listing(locations.volumes))
    stray = sorted(name for name in directories - rows if os.path.isdir(locations.volume_data(name)))
    empty = sorted(name for name in rows if not os.path.isdir(locations.volume_data(name)))
    left = sorted(name for name in _listing(locations.tmp) if name.startswith("volume-"))
    gone = state.query(
        "SELECT volume, container_id FROM volume_uses WHERE container_id NOT IN (SELECT id FROM containers) ORDER BY 1"
    )
    if repair:
        _repair(state, locations, stray, empty, left)
    return [
        *(f"volume {name}: has data but no row" for name in stray),
        *(f"volume {name}: its directory is missing" for name in empty),
        *(f"volume {row['volume']}: used by container {row['container_id']}, which does not exist" for row in gone),
        *(f"directory {locations.tmp}/{name}: left by the removal of a volume" for name in left),
    ]


def _repair(
    state: State, locations: Locations, stray: Iterable[str], empty: Iterable[str], left: Iterable[str]
) -> None:
    with state.transaction() as cursor:
        cursor.execute("DELETE FROM volume_uses WHERE container_id NOT IN (SELECT id FROM containers)")
        for name in stray:
            anonymous = len(name) == ID_LENGTH and _HEX.issuperset(name)
            _insert(cursor, Volume(name=name, anonymous=anonymous, created_ns=time.time_ns()))
    for name in empty:
        _make_directories(locations, name)
    for name in left:
        remove_tree(f"{locations.tmp}/{name}")


def _fill_locked(source_fd: int, volume_fd: int, data: str, owners: UserMap | None) -> None:
    data_fd = os.open(data, DIRECTORY)
    try:
        interrupted = _FILLING in names_in(volume_fd)
        if names_in(data_fd):
            if not interrupted:
                return
            _empty(data, data_fd)
        os.close(os.open(_FILLING, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=volume_fd))
        try:
            TreeCopy(source_fd, data_fd, user_map=owners).run()
        except BaseException:
            _empty(data, data_fd)
            raise
        finally:
            os.unlink(_FILLING, dir_fd=volume_fd)
    finally:
        os.close(data_fd)


def _empty(data: str, data_fd: int) -> None:
    for name in names_in(data_fd):
        remove_tree(f"{data}/{name}")


def _open_guest_directory(rootfs: str, guest: str) -> int:
    """Open a directory of the guest; -1 when the path does not lead to one."""
    root_fd = os.open(rootfs, DIRECTORY)
    try:
        return open_in_root(root_fd, guest, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        if exc.errno in _DOES_NOT_LEAD_TO_A_DIRECTORY:
            return -1
        raise StateError(f"open {guest} of the image: {os.strerror(exc.errno or 0).lower()}") from exc
    finally:
        os.close(root_fd)


def _make_directories(locations: Locations, name: str) -> None:
    data = locations.volume_data(name)
    if os.path.isdir(data):
        return
    try:
        if not os.path.isdir(locations.volume(name)):
            os.mkdir(locations.volume(name), _DIRECTORY_MODE)
        os.mkdir(data, _DATA_MODE)
        os.chmod(data, _DATA_MODE)  # whatever the umask is
    except OSError as exc:
        raise directory_error("make volume", exc, data) from exc


def _insert(cursor: sqlite3.Cursor, volume: Volume) -> None:
    cursor.execute(
        "INSERT OR IGNORE INTO volumes VALUES (?, ?, ?, ?, ?)",
        (
            volume.name,
            int(volume.anonymous),
            msgspec.json.encode(volume.labels).decode(),
            msgspec.json.encode(volume.options).decode(),
            volume.created_ns,
        ),
    )


def _decode(row: sqlite3.Row) -> Volume:
    return Volume(
        name=row["name"],
        anonymous=bool(row["anonymous"]),
        labels=msgspec.json.decode(row["labels"], type=dict[str, str]),
        options=msgspec.json.decode(row["options"], type=dict[str, str]),
        created_ns=row["created_ns"],
    )


def _not_found(name: str, known: list[str]) -> NotFoundError:
    return NotFoundError(f"volume {name}: no such volume", hint=near_miss(name, known))


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
