"""Random access to the parts of an image archive: a tar (spooled to disk if need be) or a directory."""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from plugengine.errors import ImageError
from plugengine.images.layers.paths import normalise, shown
from plugengine.images.tar.compression import CHUNK, Unpacked
from plugengine.images.tar.limits import CONTENTS_BYTES, Caps
from plugengine.images.tar.read import TarReader
from plugengine.kernel.files import open_in_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from plugengine.images.scratch import Scratch
    from plugengine.images.tar.compression import Readable

# The outer archive holds layers, whose own limits apply when they are unpacked.
_CAPS = Caps(entries=200_000, bytes=1 << 40)
_MAX_LINKS = 10
_TAR_MAGIC_AT = slice(257, 262)


class Members(Protocol):
    """The parts of an archive, by name."""

    what: str
    contents_left: int  # see `read_small`

    def has(self, name: str) -> bool:
        """Tell whether there is such a part."""

    def size(self, name: str) -> int:
        """Return its size in bytes."""

    def open(self, name: str) -> AbstractContextManager[Readable]:
        """Open its stored bytes for reading."""


def read_small(members: Members, name: str, limit: int) -> bytes:
    """Return a part whole: a manifest, an index or a config.

    Raises:
        ImageError: It is missing or larger than `limit`, or with it more than `CONTENTS_BYTES` were read so.
    """
    if not members.has(name):
        raise ImageError(f"{members.what}: {name} is missing")
    size = members.size(name)
    if size > limit:
        raise ImageError(f"{members.what}: {name} has {size} bytes, more than {limit}")
    members.contents_left -= size
    if members.contents_left < 0:
        raise ImageError(
            f"{members.what}: more than {CONTENTS_BYTES} bytes of manifests and configs", hint="this looks like a bomb"
        )
    with members.open(name) as reader:
        return b"".join(iter(lambda: reader.read(CHUNK), b""))


@contextmanager
def open_members(source: BinaryIO, what: str, work: Scratch) -> Iterator[TarMembers]:
    """Index an archive that is open; a pipe, or what is compressed, is first written to the scratch."""
    fd = _seekable_tar(source)
    if fd is not None:
        yield TarMembers(fd, what)
        return
    path = f"{work.path}/archive"
    with open(path, "xb+") as spool:
        reader = Unpacked(source, what=what, caps=_CAPS)
        while chunk := reader.read(CHUNK):
            spool.write(chunk)
        spool.flush()
        yield TarMembers(spool.fileno(), what)
    os.unlink(path)


def _seekable_tar(source: BinaryIO) -> int | None:
    """Return the descriptor of a plain tar in a regular file that is at its beginning, else None."""
    try:
        fd = source.fileno()
        if not stat.S_ISREG(os.fstat(fd).st_mode) or source.tell() != 0:
            return None
    except OSError:
        return None
    return fd if os.pread(fd, 512, 0)[_TAR_MAGIC_AT] == b"ustar" else None


class _Part(Struct, frozen=True):
    offset: int
    size: int
    link: str | None = None  # another member's name


class TarMembers:
    """The members of a seekable tar."""

    def __init__(self, fd: int, what: str) -> None:
        self.what = what
        self.contents_left: int = CONTENTS_BYTES
        self._fd = fd
        self._parts: dict[str, _Part] = {}
        self._index()

    def _index(self) -> None:
        stream = _Skipping(self._fd)
        reader = TarReader(stream, what=self.what, caps=_CAPS)
        for entry in reader:
            name = os.fsdecode(normalise(entry.name, _CAPS))
            if entry.type == b"0" and entry.extents is None:
                self._parts[name] = _Part(reader.offset, entry.stored)
            elif entry.type in (b"1", b"2"):
                self._parts[name] = _Part(0, 0, self._target(name, entry.type, entry.link))

    def _target(self, name: str, kind: bytes, link: bytes) -> str:
        """Old docker saves a layer that two images share once, and links to it."""
        target = os.fsdecode(link)
        if kind == b"2":
            target = posixpath.join(posixpath.dirname(name), target)
        return os.fsdecode(normalise(os.fsencode(target), _CAPS))

    def _part(self, name: str) -> _Part | None:
        for _ in range(_MAX_LINKS):
            part = self._parts.get(name)
            if part is None or part.link is None:
                return part
            name = part.link
        raise ImageError(f"{self.what}: {name}: too many links")

    def has(self, name: str) -> bool:
        """Tell whether there is such a member."""
        return self._part(name) is not None

    def size(self, name: str) -> int:
        """Return a member's size."""
        return self._known(name).size

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open one member."""
        part = self._known(name)
        yield _Slice(self._fd, part.offset, part.size, f"{self.what}: {name}")

    def _known(self, name: str) -> _Part:
        part = self._part(name)
        if part is None:
            raise ImageError(f"{self.what}: {name} is missing")
        return part

    @property
    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._parts)


class _Skipping:
    """A file as the tar reader wants it: reads from the beginning, and can jump."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0
        self._size = os.fstat(fd).st_size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Jump over bytes; False when the file ends before that."""
        self._at += size
        return self._at <= self._size


class _Slice:
    """A part of a file."""

    def __init__(self, fd: int, offset: int, size: int, what: str) -> None:
        self._fd, self._at, self._left, self._what = fd, offset, size, what

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._left), self._at)
        if not data and self._left and size:
            raise ImageError(f"{self._what}: truncated")
        self._at += len(data)
        self._left -= len(data)
        return data


class DirectoryMembers:
    """The files of an OCI layout directory; nothing outside of it is opened."""

    def __init__(self, directory_fd: int, what: str) -> None:
        self.what = what
        self.contents_left: int = CONTENTS_BYTES
        self._fd = directory_fd

    def _open(self, name: str) -> int | None:
        try:
            fd = open_in_root(self._fd, name, os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise ImageError(f"{self.what}: {name}: {os.strerror(exc.errno or 0).lower()}") from exc
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"{self.what}: {shown(os.fsencode(name))} is no regular file")
        return fd

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        fd = self._open(name)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def size(self, name: str) -> int:
        """Return a file's size."""
        fd = self._known(name)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """Open one file."""
        with open(self._known(name), "rb", buffering=0) as file:
            yield file

    def _known(self, name: str) -> int:
        fd = self._open(name)
        if fd is None:
            raise ImageError(f"{self.what}: {name} is missing")
        return fd
