"""Bring the data of a copy to the disk before its name, as cheaply as the filesystem's journal allows."""

from __future__ import annotations

import os
from typing import Final

from plugengine.kernel.files import (
    EXT4_SUPER_MAGIC,
    SYNC_FILE_RANGE_WRITE_AND_WAIT,
    XFS_SUPER_MAGIC,
    fstatfs_type,
    sync_file_range,
)
from plugengine.kernel.mountinfo import read_mountinfo

_SMALL: Final = 1 << 20  # above, fsync(2) has as much to do with the data as without the journal
# Journal or data on a further device, whose cache no commit of the journal empties.
_SEVERAL_DEVICES: Final = ("logdev=", "rtdev=")


class DataFirst:
    """Waits until the data of a file is on the disk before any change of names that comes after.

    fsync(2) also commits the journal, which takes five to ten times as long as writing a small file. That is not
    needed where the journal keeps the order by itself. Both ext4 and XFS note a file's new size, and that its blocks
    hold data, when the write of the data has ended and before whoever waits for it goes on
    (ext4_end_io_end(), xfs_end_ioend()); the rename that comes after is in the same or a later transaction,
    and a transaction reaches the disk after those before it, and after a flush of the disk's cache. So a power cut
    leaves the copy with its data, or no copy and thus the layer's file. Tried with ext4 and XFS shut down in the
    midst of it: of thousands of copies none was empty or in part, and without the wait almost all were.

    All other filesystems get fsync(2): btrfs ends the wait before its trees know of the data.
    """

    def __init__(self, fd: int) -> None:
        """Serve one filesystem.

        Args:
            fd: Any descriptor on it, open as long as this is used.
        """
        self._fd = fd
        self._ordered: bool | None = None  # not looked at yet: many mounts never copy anything

    def wait(self, fd: int, size: int) -> None:
        """Wait for the data of a file.

        Args:
            fd: Open for writing.
            size: Bytes that were written.

        Raises:
            OSError: Data could not be written.
        """
        if self._ordered is None:
            self._ordered = keeps_order(self._fd)
        if self._ordered and size <= _SMALL:
            sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE_AND_WAIT)
        else:
            os.fsync(fd)


def keeps_order(fd: int) -> bool:
    """Tell whether the filesystem of a descriptor has a journal that keeps data before later changes of names."""
    try:
        kind = fstatfs_type(fd)
        if kind == EXT4_SUPER_MAGIC:
            return _ext4_keeps_order(_device_name(fd))
        if kind == XFS_SUPER_MAGIC:
            device = _device(fd)
            mounts = [entry for entry in read_mountinfo() if entry.major_minor == device]
            return bool(mounts) and not any(
                option.startswith(_SEVERAL_DEVICES) for entry in mounts for option in entry.super_options
            )
    except (OSError, ValueError):
        pass  # no /proc or /sys to look at
    return False


def _ext4_keeps_order(device: str) -> bool:
    """Tell it of an ext4, which can also do without a journal, or have it elsewhere, or not wait for the disk."""
    with open(f"/proc/fs/ext4/{device}/options", encoding="ascii") as stream:
        options = set(stream.read().split())
    # An inode's number after the device: the journal is a file of this filesystem.
    journal = any(name.startswith(f"{device}-") for name in os.listdir("/proc/fs/jbd2"))
    return journal and {"data=ordered", "barrier"} <= options and "journal_async_commit" not in options


def _device_name(fd: int) -> str:
    major, minor = _device(fd)
    return os.path.basename(os.readlink(f"/sys/dev/block/{major}:{minor}"))


def _device(fd: int) -> tuple[int, int]:
    device = os.fstat(fd).st_dev
    return os.major(device), os.minor(device)
