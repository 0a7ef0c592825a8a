"""Find users and groups by the bytes of an image's own etc/passwd and etc/group; see passwd(5), group(5)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from msgspec import Struct

from plugengine.errors import ImageError, NotFoundError, UsageError
from plugengine.kernel.files import open_in_root
from plugengine.model import HostPath

MAX_ID = 2**32 - 2  # 2**32 - 1 is "leave as it is" for every id call, and C wraps what is larger: CVE-2024-40635
_MAX_DIGITS = 10
_MAX_FILE_BYTES = 1 << 20
_NO_HOME = b"/"

# name:password:uid:gid:comment:home:shell, and name:password:gid:members. Lines may be cut short after the id: images
# of scripts that append `name:x:2222` run everywhere. What is missing is 0, or empty.
_LEAST_FIELDS = 3
_GID, _HOME = 3, 5
_MEMBERS = 3


class Accounts(Struct, frozen=True, kw_only=True):
    """What the image says of its users; the content of the two files, empty when there is none."""

    passwd: bytes = b""
    group: bytes = b""


class Account(Struct, frozen=True, kw_only=True):
    """One user as the image has it."""

    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, the primary one among them: CVE-2022-36109
    home: bytes


class _User(Struct, frozen=True):
    name: bytes
    uid: int
    gid: int
    home: bytes


class _Group(Struct, frozen=True):
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def read_accounts(rootfs: HostPath) -> Accounts:
    """Read both files of a container's root filesystem, by descriptor, never through the host's name service.

    Args:
        rootfs: As it is mounted for the engine, without what is mounted there for the guest. By /proc/PID/root a link
            of a running container would lead into its procfs, where we would read with the rights of the host's root.

    Raises:
        ImageError: One of them is there, and is no plain file or is too large.
    """
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Accounts(passwd=_read(root_fd, "/etc/passwd"), group=_read(root_fd, "/etc/group"))
    finally:
        os.close(root_fd)


def resolve(user: str, accounts: Accounts, *, add_groups: Iterable[str] = ()) -> Account:
    """Return who `user` is, as docker does.

    Args:
        user: "name|uid[:[group|gid]]"; empty is user 0. A number need not be in the file, its group is then 0.
        accounts: The image's files.
        add_groups: `--group-add`, names or numbers.

    Raises:
        NotFoundError: A name that is not in its file.
        UsageError: A number that is no user or group id.
    """
    name, _colon, group = user.partition(":")
    found, uid = _find_user(name, accounts.passwd)
    gid = found.gid if found else 0
    if group:
        gid = _find_group(group, accounts.group)
        groups = [gid]
    else:
        groups = [gid, *(_memberships(found.name, accounts.group) if found else ())]
    groups += [_find_group(each, accounts.group) for each in add_groups]
    return Account(uid=uid, gid=gid, groups=tuple(dict.fromkeys(groups)), home=(found and found.home) or _NO_HOME)


def _find_user(name: str, passwd: bytes) -> tuple[_User | None, int]:
    number = _number(name or "0", "user")
    if number is not None:
        return next((each for each in _users(passwd) if each.uid == number), None), number
    wanted = os.fsencode(name)
    for each in _users(passwd):
        if each.name == wanted:
            return each, each.uid
    raise NotFoundError(f"user {name!r}: no such name in the image's /etc/passwd", hint="a number works without")


def _find_group(name: str, group: bytes) -> int:
    number = _number(name, "group")
    if number is not None:
        return number
    wanted = os.fsencode(name)
    for each in _groups(group):
        if each.name == wanted:
            return each.gid
    raise NotFoundError(f"group {name!r}: no such name in the image's /etc/group", hint="a number works without")


def _memberships(name: bytes, group: bytes) -> Iterator[int]:
    return (each.gid for each in _groups(group) if name in each.members)


def _number(text: str, what: str) -> int | None:
    """Return the id a text stands for, None when it is a name; strict, unlike int(): CVE-2026-30892."""
    digits = text[1:] if text[:1] in {"-", "+"} else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    if digits != text or len(digits) > _MAX_DIGITS or int(digits) > MAX_ID:
        raise UsageError(f"{what} {text[:40]!r}: not between 0 and {MAX_ID}")
    return int(digits)


def _users(passwd: bytes) -> Iterator[_User]:
    for fields in _records(passwd):
        uid, gid = _file_number(fields[2]), _file_number(_field(fields, _GID, b"0"))
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, _field(fields, _HOME, b""))


def _groups(group: bytes) -> Iterator[_Group]:
    for fields in _records(group):
        gid = _file_number(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(filter(None, _field(fields, _MEMBERS, b"").split(b","))))


def _records(content: bytes) -> Iterator[list[bytes]]:
    for line in content.split(b"\n"):
        fields = line.strip().split(b":")
        if len(fields) >= _LEAST_FIELDS and fields[0] and not fields[0].startswith(b"#"):
            yield fields


def _field(fields: list[bytes], index: int, default: bytes) -> bytes:
    return fields[index] if index < len(fields) else default


def _file_number(field: bytes) -> int | None:
    """Return an id of a file; a line with another id counts as not written, the image is not ours to repair."""
    if not field.isdigit() or len(field) > _MAX_DIGITS or int(field) > MAX_ID:
        return None
    return int(field)


def _read(root_fd: int, path: str) -> bytes:
    # Looked at before it is opened: a FIFO would block, a device may act on open(2). CVE-2024-9676.
    try:
        found = open_in_root(root_fd, path, os.O_PATH)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as exc:
        raise ImageError(f"read {path} of the image: {exc.strerror}") from exc
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"read {path} of the image: not a plain file")
        if status.st_size > _MAX_FILE_BYTES:
            raise ImageError(f"read {path} of the image: larger than {_MAX_FILE_BYTES} bytes")
        return _content(found, path)
    finally:
        os.close(found)


def _content(path_fd: int, path: str) -> bytes:
    fd = os.open(f"/proc/self/fd/{path_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as stream:
        content = stream.read(_MAX_FILE_BYTES + 1) or b""
    if len(content) > _MAX_FILE_BYTES:
        raise ImageError(f"read {path} of the image: larger than {_MAX_FILE_BYTES} bytes")
    return content
