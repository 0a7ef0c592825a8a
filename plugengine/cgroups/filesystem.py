"""Find, read, write, make and remove control groups: what drivers of both versions share; see cgroups(7)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from plugengine.errors import DriverError, UsageError
from plugengine.kernel.mountinfo import parse_mountinfo

_READ_BYTES = 1 << 16

# Mount options of cgroup v1 that are neither a controller nor a name; see cgroup-v1/cgroups.rst.
_NO_CONTROLLERS = frozenset({"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"})

# Extended attribute of every group we made: who may remove it.
_MARK = "trusted.plugengine"
_PARENT = b"parent"

# How often a parent may vanish between making it and making its child: another engine removes it with its last group.
_MAKE_TRIES = 50

# A group that is removed answers the second way to who has a file of it open.
_GONE = frozenset({errno.ENOENT, errno.ENODEV})
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.02


class Hierarchy(NamedTuple):
    """One mounted hierarchy."""

    version: int
    names: tuple[str, ...]  # v1: controllers, or "name=…"; v2: none
    mount_point: str
    own: str  # directory of the group this process is in

    @property
    def base(self) -> str | None:
        """Return the directory below which groups can be made: the root, else our own group, else None."""
        for directory in (self.mount_point, self.own):
            if os.access(directory, os.W_OK):
                return directory
        return None


def hierarchies() -> list[Hierarchy]:
    """Return the hierarchies that are mounted here, each once."""
    lines = [line for line in read("/proc/self/mountinfo").split("\n") if " - cgroup" in line]
    ours = _own_groups(read("/proc/self/cgroup"))
    found: dict[tuple[str, ...], Hierarchy] = {}
    for entry in parse_mountinfo(os.fsencode("\n".join(lines))):
        names = _names(entry.super_options) if entry.fstype == "cgroup" else ()
        if names in found:
            continue  # mounted a second time, such as in the directory of a container
        path = ours.get(names[0] if names else "", "/")
        relative = os.path.relpath(path, entry.root)
        own = entry.mount_point if relative.startswith("..") else os.path.normpath(f"{entry.mount_point}/{relative}")
        found[names] = Hierarchy(1 if entry.fstype == "cgroup" else 2, names, entry.mount_point, own)
    return list(found.values())


def _names(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        option for option in options if option not in _NO_CONTROLLERS and not option.startswith("release_agent=")
    )


def _own_groups(text: str) -> dict[str, str]:
    """Return the path of this process's group by controller; "" is the unified hierarchy."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


def read(path: str) -> str:
    """Return the content of a control file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return os.fsdecode(b"".join(parts))


def keyed(text: str) -> dict[str, int]:
    """Parse a flat keyed file, such as memory.stat."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def write(path: str, value: str) -> None:
    """Write a control file, all at once as the kernel wants it.

    Raises:
        DriverError: It names the file, the value and the reason.
    """
    try:
        write_or_errno(path, value)
    except OSError as exc:
        raise DriverError(f"write {value.strip()!r} to {path}: {exc.strerror}") from exc


def write_or_errno(path: str, value: str) -> None:
    """Write a control file as `write` does, for a caller to whom the reason matters: raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def until(done: Callable[[], bool], *, timeout_s: float) -> bool:
    """Ask again and again, at growing intervals, until `done` or the time is over; return the last answer."""
    end = time.monotonic() + timeout_s
    pause = _FIRST_PAUSE_S
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)
    return True


def walk(group: str) -> Iterator[str]:
    """Yield the groups below and including this one, children first; one that vanishes is passed over."""
    try:
        with os.scandir(group) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as exc:
        if exc.errno in _GONE:
            return
        raise
    for name in names:
        yield from walk(f"{group}/{name}")
    yield group


def pids(group: str) -> tuple[int, ...]:
    """Return the processes of a group and its descendants."""
    found: dict[int, None] = {}
    for each in walk(group):
        try:
            found.update(dict.fromkeys(map(int, read(f"{each}/cgroup.procs").split())))
        except OSError as exc:
            # EOPNOTSUPP: a threaded group of v2, whose processes its domain shows.
            if exc.errno not in _GONE | {errno.EOPNOTSUPP}:
                raise
    found.pop(0, None)  # a process of a pid namespace we can't see
    return tuple(found)


def relative_path(parent: str, container_id: str) -> str:
    """Return "parent/id"; a parent may begin with a slash, but not climb.

    Raises:
        UsageError: The parent has ".." or an odd character in it.
    """
    parts = [part for part in parent.split("/") if part not in {"", "."}]
    if ".." in parts or any(letter in parent for letter in "\0\n"):
        raise UsageError(f"--cgroup-parent {parent!r}: not a path below the root of the cgroups")
    return "/".join((*parts, container_id))


def make(base: str, path: str, owner: str, prepare: Callable[[str, str], None]) -> str:
    """Make the group `path` and its missing parents below `base`; return its directory.

    Args:
        base: Existing directory.
        path: Relative; the last part is the container's id.
        owner: Who may collect the group, see `strays`.
        prepare: Called with (parent directory, directory) on every level, whether made now or not; an OSError that says
            that the group is gone begins everything anew.

    Raises:
        OSError, DriverError: Nothing was made, or all of it was removed again.
    """
    for _ in range(_MAKE_TRIES):
        try:
            return _make(base, path, owner, prepare)
        except OSError as exc:
            if exc.errno not in _GONE:
                raise
    raise DriverError(f"make cgroup {base}/{path}: its parent vanishes all the time")


def _make(base: str, path: str, owner: str, prepare: Callable[[str, str], None]) -> str:
    made: list[str] = []
    parent = base
    parts = path.split("/")
    try:
        for depth, part in enumerate(parts, 1):
            group = f"{parent}/{part}"
            try:
                os.mkdir(group)
            except FileExistsError:
                pass
            else:
                made.append(group)
                _mark(group, f"owner:{owner}".encode() if depth == len(parts) else _PARENT)
            prepare(parent, group)
            parent = group
    except BaseException:
        for group in reversed(made):
            _rmdir(group)
        raise
    return parent


def _mark(group: str, mark: bytes) -> None:
    try:
        os.setxattr(group, _MARK, mark)
    except OSError as exc:
        if exc.errno not in {errno.EOPNOTSUPP, errno.EPERM}:
            raise  # without a mark it is never collected, that is all


def _mark_of(group: str) -> bytes | None:
    try:
        return os.getxattr(group, _MARK)
    except OSError:
        return None


def strays(base: str, parent: str, owner: str, valid_ids: frozenset[str]) -> list[str]:
    """Return the groups below `parent` that this owner's engine made for containers it no longer knows.

    A group without owner counts when nothing runs in it; one without our mark never does.
    """
    directory = f"{base}/{relative_path(parent, '')}".rstrip("/")
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(set(names) - valid_ids):
        mark = _mark_of(f"{directory}/{name}")
        if mark == f"owner:{owner}".encode() or (mark == b"owner:" and not pids(f"{directory}/{name}")):
            found.append(f"{directory}/{name}")
    return found


def remove(group: str, *, timeout_s: float) -> None:
    """Remove a group with its descendants, then those of its parents that we made and that are empty now.

    The kernel lets go of a group some moments after its last process: EBUSY is asked again.

    Raises:
        DriverError: It is still busy at the end of the time.
    """
    if not until(lambda: all(_rmdir(each) for each in walk(group)), timeout_s=timeout_s):
        left = pids(group)
        raise DriverError(
            f"remove cgroup {group}: {os.strerror(errno.EBUSY)}",
            hint=f"processes in it: {', '.join(map(str, left))}" if left else None,
        )
    parent = os.path.dirname(group)
    while _mark_of(parent) == _PARENT and _rmdir(parent):
        parent = os.path.dirname(parent)


def _rmdir(group: str) -> bool:
    """Remove one group; False: it is in use."""
    try:
        os.rmdir(group)
    except OSError as exc:
        if exc.errno in {errno.EBUSY, errno.ENOTEMPTY}:
            return False
        if exc.errno not in _GONE:
            raise
    return True
