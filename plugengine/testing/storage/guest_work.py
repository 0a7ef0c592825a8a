"""A container's work that touches everything a layer can say; what the cases about layers and other drivers use."""

from __future__ import annotations

import os
import shutil
import stat
from typing import Final

from plugengine.testing.storage.described import (
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    symlink,
    whiteout,
)

LOWEST: Final = (
    directory("", 0o755),
    directory("etc", 0o755),
    file("etc/passwd", "root:x:0:0\n"),
    file("etc/hidden", "hidden by the next layer\n"),
    directory("usr"),
    directory("usr/lib"),
    file("usr/lib/a.so", b"\x7fELF" + b"a" * 10_000, 0o755),
    hardlink("usr/lib/a.so.1", "usr/lib/a.so"),
    file("usr/lib/b.so", b"b" * 5_000),
    directory("var", 0o755),
    directory("var/log", 0o750, gid=4),
    file("var/log/old", "old\n"),
    file("var/log/older", "older\n"),
    directory("srv"),
    directory("srv/tree"),
    file("srv/tree/one", "1\n"),
    file("srv/tree/two", "2\n"),
    symlink("lib", "usr/lib"),
    file("suid", "s\n", 0o4755),
    file("turns", "a file that becomes a directory\n"),
)
NEXT: Final = (
    directory("etc", 0o755),
    whiteout("etc/hidden"),
    file("etc/passwd", "root:x:0:0\nuser:x:1000:1000\n", xattrs={"user.origin": b"second"}),
    directory("srv/tree", 0o711),
    opaque("srv/tree"),
    file("srv/tree/three", "3\n"),
    fifo("pipe"),
)
LAYERS: Final = (LOWEST, NEXT)


def work(root: str) -> None:
    """Do in a container what packages and programs do: everything that a layer can hold."""
    with open(f"{root}/etc/passwd", "a", encoding="ascii") as stream:
        stream.write("more:x:1001:1001\n")
    os.makedirs(f"{root}/opt/new/deep")
    with open(f"{root}/opt/new/deep/file", "wb") as binary:
        binary.write(os.urandom(1) * 70_000)
    os.link(f"{root}/opt/new/deep/file", f"{root}/opt/linked")
    os.symlink("new/deep/file", f"{root}/opt/ln")
    os.setxattr(f"{root}/opt/new", "user.made", b"\x00\x01")
    os.mknod(f"{root}/opt/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(f"{root}/opt/null", 0o666)
    _change_layers(root)
    os.utime(f"{root}/opt/linked", ns=(1, 1_111_111_111_111_111_111))


def _change_layers(root: str) -> None:
    os.unlink(f"{root}/usr/lib/b.so")
    shutil.rmtree(f"{root}/var/log")
    os.mkdir(f"{root}/var/log", 0o700)
    with open(f"{root}/var/log/new", "w", encoding="ascii") as stream:
        stream.write("the directory was made anew\n")
    shutil.rmtree(f"{root}/srv/tree")
    with open(f"{root}/srv/tree", "w", encoding="ascii") as stream:
        stream.write("a file where a directory was\n")
    os.unlink(f"{root}/turns")
    os.mkdir(f"{root}/turns")
    with open(f"{root}/turns/inside", "w", encoding="ascii"):
        pass
    os.rename(f"{root}/suid", f"{root}/usr/suid")
    os.chown(f"{root}/usr/lib/a.so", 33, 34)
    os.chmod(f"{root}/usr", 0o711)
    os.unlink(f"{root}/pipe")
    os.unlink(f"{root}/lib")
    os.symlink("/no/such/lib", f"{root}/lib")
