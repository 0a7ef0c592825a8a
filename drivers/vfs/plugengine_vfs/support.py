"""What keeps a directory of this host from being the root filesystem of a container."""

from __future__ import annotations

import os
from typing import Final

from plugengine.model import Host

# A bind mount has the flags of the mount it is taken from; see mount(8).
_FLAGS: Final = (
    (os.ST_NOEXEC, "noexec", "no program of a container could run"),
    (os.ST_NOSUID, "nosuid", "set-user-id programs would not work in containers"),
    (os.ST_NODEV, "nodev", "device files of images would not work in containers"),
    (os.ST_RDONLY, "read-only", "nothing can be copied there"),
)


def reasons(host: Host) -> list[str]:
    """Return why the driver cannot be used with this host's root; none: it can."""
    place: str = host.root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    flags = os.statvfs(place).f_flag
    found = [
        f"{place} is on a filesystem mounted {name}, {why}: mount it without, or put --root elsewhere"
        for flag, name, why in _FLAGS
        if flags & flag
    ]
    return [*(["mounting needs CAP_SYS_ADMIN: run as root"] if os.geteuid() != 0 else []), *found]
