"""What a tree is like, as values that can be compared: types, modes, owners, content, links, attributes, times."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from plugengine.testing.cases import Failure

RECENT: Final = -1  # mtime of what was written since a moment: the clock's, so that no two trees agree in it
_CHUNK_BYTES: Final = 1 << 20
_SHOWN: Final = 6  # differences named in a message
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# What a security module of the host puts on every file is nothing of the tree's.
_HOSTS_XATTRS: Final = frozenset({"security.selinux", "security.ima", "security.evm", "security.apparmor"})


class Entry(Struct, frozen=True, kw_only=True):
    """One name of a tree."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int  # 0 for directories, whose size is the filesystem's own affair
    digest: bytes  # of a file's content
    device: tuple[int, int] | None
    target: str | None  # of a symbolic link
    xattrs: tuple[tuple[str, bytes], ...]
    mtime_ns: int
    links: tuple[str, ...]  # the other names of the same inode within the tree


Tree = Mapping[str, Entry]  # path relative to the root ("" is the root itself) to what is there


def snapshot(root: str, *, since_ns: int | None = None) -> dict[str, Entry]:
    """Return what is below a directory, the directory itself included; names keep undecodable bytes as surrogates.

    Args:
        root: Whose tree; read as it is seen through its mount.
        since_ns: Times from this moment on are given as `RECENT`.
    """
    found: dict[str, os.stat_result] = {"": os.lstat(root)}
    for directory, names, files in os.walk(root, onerror=_raise):
        prefix = os.path.relpath(directory, root)
        for name in (*names, *files):
            path = name if prefix == "." else f"{prefix}/{name}"
            found[path] = os.lstat(f"{root}/{path}")
    groups: dict[tuple[int, int], list[str]] = {}
    for path, status in found.items():
        if not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {
        path: _entry(f"{root}/{path}" if path else root, path, status, groups, since_ns)
        for path, status in sorted(found.items())
    }


def differences(seen: Tree, wanted: Tree, *, ignored: frozenset[str] = frozenset()) -> list[str]:
    """Return one line for each difference of two trees; fields of `Entry` named in `ignored` may differ."""
    lines = [f"/{path}: missing" for path in wanted if path not in seen]
    lines += [f"/{path}: should not be there" for path in seen if path not in wanted]
    for path, entry in wanted.items():
        other = seen.get(path)
        if other is None or other == entry:
            continue
        for name in Entry.__struct_fields__:
            is_value, should_value = getattr(other, name), getattr(entry, name)
            if is_value != should_value and name not in ignored:
                lines.append(f"/{path}: {name} is {_shown(name, is_value)}, not {_shown(name, should_value)}")
    return lines


def expect_same(seen: Tree, wanted: Tree, what: str, *, ignored: frozenset[str] = frozenset()) -> None:
    """Raise Failure naming the first differences of two trees."""
    lines = differences(seen, wanted, ignored=ignored)
    if lines:
        more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
        raise Failure(f"{what}: {'; '.join(lines[:_SHOWN])}{more}")


def content_digest(path: str) -> bytes:
    """Return the digest of a file's content."""
    digest = blake2b(digest_size=16)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while data := os.read(fd, _CHUNK_BYTES):
            digest.update(data)
    finally:
        os.close(fd)
    return digest.digest()


def _entry(
    path: str,
    name: str,
    status: os.stat_result,
    groups: Mapping[tuple[int, int], list[str]],
    since_ns: int | None,
) -> Entry:
    mode = status.st_mode
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    recent = since_ns is not None and status.st_mtime_ns >= since_ns
    return Entry(
        kind=_KINDS[stat.S_IFMT(mode)],
        mode=stat.S_IMODE(mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if stat.S_ISDIR(mode) else status.st_size,
        digest=content_digest(path) if stat.S_ISREG(mode) and status.st_size else b"",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
        target=os.readlink(path) if stat.S_ISLNK(mode) else None,
        xattrs=_xattrs(path),
        mtime_ns=RECENT if recent else status.st_mtime_ns,
        links=()
        if stat.S_ISDIR(mode)
        else tuple(sorted(other for other in groups[(status.st_dev, status.st_ino)] if other != name)),
    )


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names if name not in _HOSTS_XATTRS)


def _raise(error: OSError) -> None:
    raise error


def _shown(field: str, value: object) -> str:
    if field == "mode":
        return f"{value:#o}"
    if field == "mtime_ns" and value == RECENT:
        return "just now"
    return repr(value)
