"""Limits of what a subvolume takes on disk, by quota groups; see btrfs-quota(8)."""

from __future__ import annotations

import errno
import os
from typing import Final

from plugengine.kernel import btrfs

_PENDING: Final = "limits"  # below the directory for what containers share: names are numbers of removed subvolumes
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SYSFS: Final = "/sys/fs/btrfs"


def put(subvolume: str, size: int) -> None:
    """Limit what a subvolume takes that it does not share.

    The filesystem's quotas are turned on if they are not: simple ones if somebody chose them, else those every kernel
    can mount. They stay on.
    """
    fd = os.open(subvolume, _DIRECTORY)
    try:
        btrfs.enable_quota(fd)
        btrfs.limit_exclusive(fd, btrfs.subvolume_id(fd), size)
    finally:
        os.close(fd)


def counted(subvolume: str) -> int | None:
    """Return the number of a subvolume that has a quota group, limited or not; None if it or its group is not there."""
    try:
        fd = os.open(subvolume, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not os.path.isdir(f"{_SYSFS}/{uuid(btrfs.filesystem_id(fd))}/qgroups"):
            return None
        return btrfs.subvolume_id(fd)
    finally:
        os.close(fd)


def uuid(identity: bytes) -> str:
    """Return an id as it is written in names."""
    digits = identity.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def forget(number: int, shared: str) -> None:
    """Remove the quota group of a subvolume that was removed.

    The filesystem keeps it until it has taken the subvolume apart, up to half a minute later; until `collect` then its
    number is noted. Numbers are never given twice. Without room for a note the group stays; it limits nobody.
    """
    try:
        os.makedirs(f"{shared}/{_PENDING}", 0o700, exist_ok=True)
        os.close(os.open(f"{shared}/{_PENDING}/{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    collect(shared)


def collect(shared: str) -> list[str]:
    """Remove the quota groups of removed subvolumes that can be by now; return a line for each."""
    try:
        fd = os.open(f"{shared}/{_PENDING}", _DIRECTORY)
    except FileNotFoundError:
        return []
    lines = []
    try:
        for number in sorted(int(name) for name in os.listdir(fd)):
            try:
                btrfs.destroy_quota_group(fd, number)
                os.unlink(str(number), dir_fd=fd)
            except OSError as exc:
                if exc.errno not in (errno.EBUSY, errno.ENOENT):
                    raise
            else:
                lines.append(f"quota group 0/{number}: its subvolume is gone")
    finally:
        os.close(fd)
    return lines
