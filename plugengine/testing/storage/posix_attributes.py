"""Operations on modes, owners, times and attributes, by root and by others; see chmod(2), chown(2), xattr(7)."""

from __future__ import annotations

import os
import stat
import time
from typing import Any

from plugengine.testing.children import in_child
from plugengine.testing.storage.pair import outcome

_NOBODY = 65534


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _as_nobody(act: Any) -> Any:
    """Do something in a child without root's rights."""

    def run() -> Any:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        return act()

    return in_child(run)


def chmod_kinds(root: str) -> Any:
    """Chmod works on files, directories, pipes and through links, and refuses what is not there."""
    for number, name in enumerate(("f", "d", "pipe", "to-f", "e")):
        os.chmod(f"{root}/{name}", 0o600 + number)
    return [outcome(os.chmod, f"{root}/{name}", 0) for name in ("no", "nowhere", "f/x", "loop")]


def chmod_open(root: str) -> Any:
    """Fchmod and fchown through a descriptor opened for reading change the file that the name leads to."""
    fd = os.open(f"{root}/f", os.O_RDONLY)
    try:
        os.fchmod(fd, 0o4755)
        os.fchown(fd, 5, 6)
        os.fchmod(fd, 0o640)
        os.utime(fd, ns=(1, 2_000_000_001))
    finally:
        os.close(fd)
    found = os.stat(f"{root}/f")
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns


def chown_clears_set_id(root: str) -> Any:
    """A change of owner clears the set-id bits of a program, as chown(2) says."""
    os.chmod(f"{root}/program", 0o6755)
    os.chown(f"{root}/program", 3, 3)
    return stat.S_IMODE(os.stat(f"{root}/program").st_mode)


def write_clears_set_id(root: str) -> Any:
    """A write by somebody who is not root clears the set-user-id bit."""
    os.chmod(f"{root}/program", 0o4777)

    def act() -> None:
        with open(f"{root}/program", "r+b") as stream:
            stream.write(b"#!/bin/evil")

    _as_nobody(act)
    return stat.S_IMODE(os.stat(f"{root}/program").st_mode)


def permissions(root: str) -> Any:
    """Somebody who is not root may do what modes and owners allow, in every directory and layer, and nothing else."""
    os.chmod(f"{root}/d", 0o1777)
    os.chmod(f"{root}/g", 0)

    def act() -> list[Any]:
        at = root.__add__
        calls: tuple[tuple[Any, ...], ...] = (
            (_read, at("/f")),
            (_read, at("/g")),
            (_read, at("/d/y")),
            (os.open, at("/f"), os.O_WRONLY),
            (os.unlink, at("/f")),
            (os.unlink, at("/d/y")),
            (os.mkdir, at("/d/mine")),
            (os.mkdir, at("/m")),
            (os.chmod, at("/f"), 0o777),
            (os.chown, at("/d/mine"), 0, 0),
            (os.rename, at("/d/y"), at("/d/z")),
            (os.utime, at("/f")),
            (os.access, at("/f"), os.W_OK),
            (os.access, at("/program"), os.X_OK),
            (os.mknod, at("/d/null"), stat.S_IFCHR, os.makedev(1, 3)),
        )
        return [_shown(outcome(*call)) for call in calls]

    return _as_nobody(act)


def _shown(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def trusted_attributes_are_roots(root: str) -> Any:
    """Somebody who is not root neither reads nor sets attributes of trusted."""
    os.setxattr(f"{root}/f", "trusted.mine", b"t")
    os.chown(f"{root}/f", _NOBODY, _NOBODY)

    def act() -> list[Any]:
        return [
            outcome(os.getxattr, f"{root}/f", "trusted.mine"),
            outcome(os.setxattr, f"{root}/f", "trusted.other", b"x"),
            outcome(os.setxattr, f"{root}/f", "user.mine", b"u"),
        ]

    return _as_nobody(act)


def attribute_errors(root: str) -> Any:
    """Attributes that are not there, have no right name or are too long are refused with the usual errors."""
    path = f"{root}/f"
    calls: tuple[tuple[Any, ...], ...] = (
        (os.getxattr, path, "user.none"),
        (os.removexattr, path, "user.none"),
        (os.setxattr, path, "nonsense", b""),
        (os.setxattr, path, "user." + "n" * 256, b""),
        (os.setxattr, path, "user.x", b"x" * 70_000),
        (os.setxattr, f"{root}/no", "user.x", b""),
        (os.setxattr, f"{root}/pipe", "user.x", b""),
    )
    return [outcome(*call) for call in calls]


def times_move(root: str) -> Any:
    """A write moves a file's time, a new entry its directory's, and a read neither."""
    paths = (f"{root}/f", f"{root}/d", f"{root}/g", f"{root}/full")
    before = [os.stat(path).st_mtime_ns for path in paths]
    with open(f"{root}/f", "ab") as stream:
        stream.write(b"x")
    os.unlink(f"{root}/d/x")
    _read(f"{root}/g")
    os.listdir(f"{root}/full")
    after = [os.stat(path) for path in paths]
    moved = [was != now.st_mtime_ns for was, now in zip(before, after, strict=True)]
    return moved, all(abs(now.st_ctime - time.time()) < 3600 for now in after[:2])


OPERATIONS = (
    chmod_kinds,
    chmod_open,
    chown_clears_set_id,
    write_clears_set_id,
    permissions,
    trusted_attributes_are_roots,
    attribute_errors,
    times_move,
)
