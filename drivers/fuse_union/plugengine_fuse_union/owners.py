"""Translate owners between the disk, which holds the guest's ids, and the kernel, which speaks the host's."""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections.abc import Iterable
from struct import Struct
from typing import Final

from plugengine_fuse_union.errors import refused

OVERFLOW_ID: Final = 65534  # /proc/sys/kernel/overflowuid

# linux/posix_acl_xattr.h: a version, then entries of tag, permissions and id
_ACL_HEADER: Final = Struct("<I")
_ACL_ENTRY: Final = Struct("<HHI")
_ACL_USER: Final = 0x02
_ACL_GROUP: Final = 0x08

Range = tuple[int, int, int]  # guest, host, size


class IdTable:
    """One direction of a user namespace's map: ids starting at `source` become those starting at `target`."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._ranges = sorted(ranges)
        self._starts = [source for source, _, _ in self._ranges]

    def find(self, number: int) -> int | None:
        """Return the translated id, or None where the map has a hole."""
        index = bisect_right(self._starts, number) - 1
        if index < 0:
            return None
        source, target, size = self._ranges[index]
        return number - source + target if number < source + size else None


class Owners:
    """Both directions, for users and groups."""

    def __init__(self, uids: Iterable[Range], gids: Iterable[Range]) -> None:
        uids, gids = list(uids), list(gids)
        self._host_uids = IdTable(uids)
        self._host_gids = IdTable(gids)
        self._disk_uids = IdTable((host, guest, size) for guest, host, size in uids)
        self._disk_gids = IdTable((host, guest, size) for guest, host, size in gids)

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """Return the owner to show; what the map does not hold belongs to nobody."""
        host_uid, host_gid = self._host_uids.find(uid), self._host_gids.find(gid)
        return (
            OVERFLOW_ID if host_uid is None else host_uid,
            OVERFLOW_ID if host_gid is None else host_gid,
        )

    def uid_to_disk(self, uid: int) -> int:
        """Return the user id to store.

        Raises:
            OSError: EOVERFLOW, as the kernel's vfs_create for ids without a place in the filesystem.
        """
        return _stored(self._disk_uids.find(uid))

    def gid_to_disk(self, gid: int) -> int:
        """Return the group id to store; raises as `uid_to_disk`."""
        return _stored(self._disk_gids.find(gid))

    def acl_to_host(self, value: bytes) -> bytes:
        """Translate the ids inside a POSIX ACL that comes from the disk."""
        return _translate_acl(value, self._host_uids, self._host_gids)

    def acl_to_disk(self, value: bytes) -> bytes:
        """Translate the ids inside a POSIX ACL that goes to the disk."""
        return _translate_acl(value, self._disk_uids, self._disk_gids)


def _stored(number: int | None) -> int:
    if number is None:
        raise refused(errno.EOVERFLOW)
    return number


def _translate_acl(value: bytes, uids: IdTable, gids: IdTable) -> bytes:
    parts = [value[: _ACL_HEADER.size]]
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
        table = {_ACL_USER: uids, _ACL_GROUP: gids}.get(tag)
        if table is not None:
            found = table.find(number)
            number = OVERFLOW_ID if found is None else found
        parts.append(_ACL_ENTRY.pack(tag, permissions, number))
    return b"".join(parts)
