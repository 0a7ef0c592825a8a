"""Three layers with something for every operation of `operations`."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from tests.drivers.fuse_union.pictures import OLD_NS

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
ACL = bytes.fromhex(
    "0200000001000700ffffffff020006006400000004000500ffffffff10000700ffffffff20000400ffffffff"
)  # user::rwx user:100:rw- group::r-x mask::rwx other::r--


def fill(layers: Sequence[Path]) -> None:
    """Make three layers with what the operations want, old enough that the times are kept times."""
    low, middle, top = layers
    for directory in ("d/sub", "e", "sticky", "acl", "names"):
        (low / directory).mkdir(parents=True)
    (low / "d" / "sub" / "deep").write_text("deep")
    (low / "d" / "file").write_text("file of the lowest\n" * 100)
    (low / "e" / "one").write_text("linked")
    os.link(low / "e" / "one", low / "e" / "two")
    (low / "large").write_bytes(bytes(range(256)) * 1024)
    for name in ("setuid", "capable"):
        (low / name).write_text("program")
        (low / name).chmod(0o666)
    (low / "setuid").chmod(0o6777)
    os.setxattr(low / "capable", "security.capability", CAPABILITY)
    (low / "link").symlink_to("d/file")
    (low / "sticky").chmod(0o1777)
    (low / "sticky" / "of-root").touch()
    os.setxattr(low / "acl", "system.posix_acl_default", ACL)
    (low / "names" / ("n" * 255)).write_text("long")
    (low / "names" / "\udcff\udcfe").write_text("no text")
    os.mkfifo(low / "fifo")
    (middle / "d").mkdir()
    (middle / "d" / "other").write_text("of the middle")
    (middle / "exchanged").write_text("of the middle")
    (top / "d").mkdir()
    (top / "d" / "file").write_text("file of the topmost\n" * 10)
    os.mknod(top / "e", stat.S_IFCHR)
    (top / "gone").mkdir()
    os.setxattr(top / "gone", "trusted.overlay.opaque", b"y")
    (low / "gone").mkdir()
    (low / "gone" / "hidden").touch()
    (low / "e2").mkdir()
    (low / "e2" / "one").write_text("linked")
    os.link(low / "e2" / "one", low / "e2" / "two")
    for layer in layers:
        for place, names, files in os.walk(layer, topdown=False):
            for name in (*names, *files):
                os.utime(Path(place, name), ns=(OLD_NS // 2, OLD_NS // 2 + 123_456_789), follow_symlinks=False)
