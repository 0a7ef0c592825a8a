"""What the kernel asks before the first write to a file: whether there is a capability to take away."""

from __future__ import annotations

import errno
import os
from struct import pack

import pytest

from tests.drivers.fuse_union.world import World

CAPABILITY = "security.capability"
# struct vfs_cap_data of include/uapi/linux/capability.h: revision 2, CAP_NET_RAW permitted and effective.
VALUE = pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def test_a_capability_given_to_a_file_being_written_is_seen_and_lost_at_the_next_write(world: World) -> None:
    path = world.mount().root / "program"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    try:
        os.write(fd, b"a")
        os.setxattr(path, CAPABILITY, VALUE)
        assert os.getxattr(path, CAPABILITY) == VALUE
        os.write(fd, b"b")
        with pytest.raises(OSError) as raised:
            os.getxattr(path, CAPABILITY)
        assert raised.value.errno == errno.ENODATA
    finally:
        os.close(fd)


def test_a_capability_given_by_another_name_of_a_file_being_written_is_lost_at_the_next_write(world: World) -> None:
    root = world.mount().root
    path, other = root / "program", root / "other"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    try:
        os.link(path, other)
        os.write(fd, b"a")
        os.setxattr(other, CAPABILITY, VALUE)
        os.write(fd, b"b")
        with pytest.raises(OSError) as raised:
            os.getxattr(path, CAPABILITY)
        assert raised.value.errno == errno.ENODATA
    finally:
        os.close(fd)
