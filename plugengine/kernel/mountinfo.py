"""Parse /proc/self/mountinfo; see proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from plugengine.kernel.attributes import statx
from plugengine.kernel.files import AT_FDCWD

_ESCAPE = re.compile(rb"\\([0-7]{3})")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One mount as its mount namespace shows it."""

    mount_id: int
    parent_id: int
    major_minor: tuple[int, int]
    root: str
    """Path inside the filesystem that is mounted; not "/" for a bind mount of a subtree."""
    mount_point: str
    options: tuple[str, ...]
    propagation: tuple[str, ...]
    """Optional fields such as "shared:2" and "master:1"; empty for a private mount."""
    fstype: str
    source: str
    super_options: tuple[str, ...]


def read_mountinfo(path: str | bytes = "/proc/self/mountinfo") -> list[MountEntry]:
    """Read the mounts of a process, in the order they are stacked.

    Since Linux 5.8 a cursor in the list keeps a mount that exists all along from being missed while others come and
    go between two reads (commit 9f6c61f96f2d).
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, _READ_BYTES):
            chunks.append(chunk)
    finally:
        os.close(fd)
    return parse_mountinfo(b"".join(chunks))


def parse_mountinfo(content: bytes) -> list[MountEntry]:
    """Parse the content of a mountinfo file.

    Raises:
        ValueError: A line that does not look like the manual page says; it is quoted.
    """
    return [_parse_line(line) for line in content.split(b"\n") if line]


def mounts_at_or_below(entries: list[MountEntry], path: str) -> list[MountEntry]:
    """Return the mounts on a directory or deeper, the last mounted first: the order to unmount in."""
    prefix = path.rstrip("/") + "/"
    return [entry for entry in reversed(entries) if f"{entry.mount_point}/".startswith(prefix)]


def mount_of(path: str | bytes) -> MountEntry | None:
    """Return the mount a file or directory lies on; None if this namespace's list does not show it.

    Raises:
        OSError: There is no such file.
    """
    _, number, _ = statx(AT_FDCWD, path, 0)
    return next((entry for entry in read_mountinfo() if entry.mount_id == number), None)


def _parse_line(line: bytes) -> MountEntry:
    fields = line.split(b" ")
    try:
        separator = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        fstype, source, super_options = fields[separator + 1 : separator + 4]
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            major_minor=(int(major), int(minor)),
            root=_unescape(fields[3]),
            mount_point=_unescape(fields[4]),
            options=_options(fields[5]),
            propagation=tuple(_unescape(field) for field in fields[6:separator]),
            fstype=_unescape(fstype),
            source=_unescape(source),
            super_options=_options(super_options),
        )
    except (ValueError, IndexError):
        raise ValueError(f"mountinfo line not understood: {line!r}") from None


def _options(field: bytes) -> tuple[str, ...]:
    # Split first: seq_show_option() in include/linux/seq_file.h writes a comma inside a value as an octal escape.
    return tuple(_unescape(option) for option in field.split(b","))


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
