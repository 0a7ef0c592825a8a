"""Tell an ext4 without a journal, on which making files is slow for minutes after many were removed."""

from __future__ import annotations

import os
from typing import Final

from plugengine.model import HostPath

WARNING: Final = (
    "the filesystem is ext4 without a journal, which passes over inode numbers freed within the last minutes: what "
    "makes files depends on what was removed before; --filesystem ext4 makes one with a journal for the run"
)


def lacks_journal(directory: HostPath) -> bool:
    """Tell whether a directory is on such a filesystem; see recently_deleted() in fs/ext4/ialloc.c."""
    device = os.stat(directory).st_dev
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        if not os.path.isdir(f"/proc/fs/ext4/{name}"):
            return False
        journals = os.listdir("/proc/fs/jbd2")
    except OSError:
        return False
    return not any(each.startswith(f"{name}-") for each in journals)
