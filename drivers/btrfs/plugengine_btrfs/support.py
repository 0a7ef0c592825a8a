"""What a host needs for subvolumes."""

from __future__ import annotations

import os

from plugengine.kernel.files import BTRFS_SUPER_MAGIC, fstatfs_type
from plugengine.model import Host
from plugengine.mounts import bind_obstacles


def reasons(host: Host) -> list[str]:
    """Return why the driver cannot be used with this host's root; none: it can."""
    found = [] if os.geteuid() == 0 else ["snapshots and mounts need CAP_SYS_ADMIN: run as root"]
    place: str = host.root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        is_btrfs = fstatfs_type(fd) == BTRFS_SUPER_MAGIC
    finally:
        os.close(fd)
    if not is_btrfs:
        return [*found, f"{place} is not on btrfs: put --root on such a filesystem (mkfs.btrfs makes one)"]
    return [*found, *bind_obstacles(host.root)]
