"""Turn an overlay upper directory (or any directory) into a layer tar: the same tree, the same bytes."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

from plugengine.errors import ImageError, NotFoundError
from plugengine.images.layers.overlay_form import UNSPEAKABLE_XATTRS, is_content_xattr
from plugengine.images.layers.paths import shown
from plugengine.images.tar.limits import DEFAULT
from plugengine.images.tar.write import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    SYMLINK,
    Header,
    encode_header,
    ending,
    padding,
)
from plugengine.kernel.attributes import xattr_path
from plugengine.model import guest_id
from plugengine.trees.whiteouts import OPAQUE, TAR_OPAQUE, TAR_PREFIX, YES, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plugengine.model import HostPath, IdRange, UserMap

_CHUNK = 1 << 20
_NO_XATTRS = frozenset({errno.EOPNOTSUPP, errno.EPERM})
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SPECIAL = {stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCK_DEVICE, stat.S_IFIFO: FIFO}


class Writable(Protocol):
    """Where the tar goes."""

    def write(self, data: bytes, /) -> object:
        """Take all of the data."""


def diff_layer(upper: HostPath, out: Writable | None = None, *, user_map: UserMap | None = None) -> tuple[str, int]:
    """Write the layer tar of a directory in overlay form.

    Args:
        upper: The directory; whiteouts are 0:0 character devices, opaque ones carry trusted.overlay.opaque.
        out: Where the uncompressed tar goes; None only computes its digest.
        user_map: Owners on disk are those outside this map; in the tar they are those inside.

    Returns:
        The diff id and the size of the tar.

    Raises:
        ImageError: Something in the directory cannot be said in a layer.
        NotFoundError: There is no such directory.
    """
    sink = _Sink(out)
    try:
        root_fd = os.open(upper, _OPEN_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFoundError(f"directory {upper}: {os.strerror(exc.errno or 0).lower()}") from exc
    try:
        _Writer(sink, user_map).write_tree(root_fd)
    finally:
        os.close(root_fd)
    sink.write(ending(sink.count))
    return f"sha256:{sink.hash.hexdigest()}", sink.count


class _Sink:
    """Counts and hashes what goes out."""

    def __init__(self, out: Writable | None) -> None:
        from hashlib import sha256

        self._out = out
        self.hash: Any = sha256()
        self.count = 0

    def write(self, data: bytes) -> None:
        self.hash.update(data)
        self.count += len(data)
        if self._out is not None:
            self._out.write(data)


class _Writer:
    """One walk over one tree, depth first, names in byte order."""

    def __init__(self, sink: _Sink, user_map: UserMap | None) -> None:
        self._sink = sink
        self._uids = user_map.uids if user_map else None
        self._gids = user_map.gids if user_map else None
        self._first_names: dict[tuple[int, int], bytes] = {}

    def write_tree(self, root_fd: int) -> None:
        self._write_directory(root_fd, b"./", os.fstat(root_fd))
        stack: list[tuple[int, bytes, Iterator[bytes]]] = [(os.dup(root_fd), b"", _names(root_fd))]
        try:
            while stack:
                parent_fd, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                child = self._write_entry(parent_fd, prefix, name)
                if child is not None:
                    if len(stack) > DEFAULT.depth:
                        os.close(child)
                        raise ImageError(f"directory {shown(name)}: more than {DEFAULT.depth} directories deep")
                    stack.append((child, prefix + name + b"/", _names(child)))
        finally:
            for held, _, _ in stack:
                os.close(held)

    def _write_entry(self, parent_fd: int, prefix: bytes, name: bytes) -> int | None:
        """Write one entry; a directory's descriptor is returned, for what is in it."""
        path = prefix + name
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if is_whiteout(found):
            self._sink.write(encode_header(Header(name=prefix + TAR_PREFIX + name, mode=0)))
            return None
        if name.startswith(TAR_PREFIX):
            raise ImageError(f"file {shown(path)}: names that begin with .wh. are reserved in a layer")
        if stat.S_ISDIR(found.st_mode):
            return self._enter_directory(parent_fd, name, path)
        if not stat.S_ISSOCK(found.st_mode):  # a socket is worth nothing without its process
            self._write_file(parent_fd, name, path, found)
        return None

    def _enter_directory(self, parent_fd: int, name: bytes, path: bytes) -> int:
        with ExitStack() as undo:
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=parent_fd)
            undo.callback(os.close, child)
            self._write_directory(child, path + b"/", os.fstat(child))
            undo.pop_all()
            return child

    def _write_directory(self, fd: int, path: bytes, found: os.stat_result) -> None:
        xattrs, opaque = self._xattrs(xattr_path(fd), path, follow=True)
        self._sink.write(encode_header(self._header(found, path, DIRECTORY, xattrs)))
        if opaque and path != b"./":
            self._sink.write(encode_header(Header(name=path + TAR_OPAQUE, mode=0)))

    def _write_file(self, parent_fd: int, name: bytes, path: bytes, found: os.stat_result) -> None:
        first = self._first_names.setdefault((found.st_dev, found.st_ino), path) if found.st_nlink > 1 else path
        if first != path:
            self._sink.write(encode_header(self._header(found, path, HARD_LINK, {}, link=first)))
            return
        if stat.S_ISREG(found.st_mode):
            self._write_regular(parent_fd, name, path, found)
            return
        xattrs, _ = self._xattrs(xattr_path(parent_fd, name), path, follow=False)
        if stat.S_ISLNK(found.st_mode):
            link = os.readlink(name, dir_fd=parent_fd)
            header = self._header(found, path, SYMLINK, xattrs, link=link)
        else:
            header = self._header(found, path, _SPECIAL[stat.S_IFMT(found.st_mode)], xattrs)
        self._sink.write(encode_header(header))

    def _write_regular(self, parent_fd: int, name: bytes, path: bytes, listed: os.stat_result) -> None:
        fd = os.open(name, _OPEN_FILE, dir_fd=parent_fd)
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != (listed.st_dev, listed.st_ino):
                raise ImageError(f"file {shown(path)}: replaced while it was read")
            xattrs, _ = self._xattrs(xattr_path(fd), path, follow=True)
            self._sink.write(encode_header(self._header(found, path, b"0", xattrs)))
            self._copy(fd, found.st_size, path)
        finally:
            os.close(fd)

    def _copy(self, fd: int, size: int, path: bytes) -> None:
        left = size
        while left:
            data = os.read(fd, min(left, _CHUNK))
            if not data:
                raise ImageError(f"file {shown(path)}: became shorter while it was read")
            self._sink.write(data)
            left -= len(data)
        self._sink.write(padding(size))

    def _header(
        self, found: os.stat_result, path: bytes, kind: bytes, xattrs: dict[bytes, bytes], *, link: bytes = b""
    ) -> Header:
        device = kind in (CHARACTER, BLOCK_DEVICE)
        return Header(
            name=path,
            type=kind,
            mode=found.st_mode & 0o7777,
            uid=_inside(self._uids, found.st_uid, path),
            gid=_inside(self._gids, found.st_gid, path),
            size=found.st_size if kind == b"0" else 0,
            mtime_ns=found.st_mtime_ns,
            link=link,
            major=os.major(found.st_rdev) if device else 0,
            minor=os.minor(found.st_rdev) if device else 0,
            xattrs=xattrs,
        )

    def _xattrs(self, at: bytes, path: bytes, *, follow: bool) -> tuple[dict[bytes, bytes], bool]:
        """Return the attributes that belong to the content, and whether the directory is opaque."""
        try:
            names = os.listxattr(at, follow_symlinks=follow)
        except OSError as exc:
            if exc.errno in _NO_XATTRS:
                return {}, False
            raise
        for name in UNSPEAKABLE_XATTRS:
            if name in names:
                raise ImageError(
                    f"file {shown(path)}: has {name}, which a layer cannot hold",
                    hint="the container was written with redirect_dir or metacopy on",
                )
        values = {os.fsencode(name): name for name in names}
        content = {
            key: os.getxattr(at, name, follow_symlinks=follow) for key, name in values.items() if is_content_xattr(key)
        }
        opaque = OPAQUE in names and os.getxattr(at, OPAQUE, follow_symlinks=follow) == YES
        return content, opaque


def _names(fd: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(fd)))


def _inside(ranges: tuple[IdRange, ...] | None, outside: int, path: bytes) -> int:
    """Return the id inside the map; see user_namespaces(7)."""
    if ranges is None:
        return outside
    found = guest_id(ranges, outside)
    if found is not None:
        return found
    raise ImageError(f"file {shown(path)}: owner {outside} is not in the container's id map")
