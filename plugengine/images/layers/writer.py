"""Make the files of one layer, each below a descriptor that was resolved inside the layer's root."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.images.layers.directories import Directories
from plugengine.images.layers.overlay_form import CAPABILITY_XATTR, is_content_xattr
from plugengine.images.layers.paths import normalise, shown
from plugengine.kernel.attributes import setxattr
from plugengine.trees import remove_at
from plugengine.trees.whiteouts import (
    OPAQUE,
    TAR_META_PREFIX,
    TAR_OPAQUE,
    TAR_PREFIX,
    WHITEOUT_DEVICE,
    WHITEOUT_MODE,
    YES,
    is_whiteout,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from plugengine.images.tar.entry import Entry
    from plugengine.images.tar.limits import Caps
    from plugengine.model import HostPath

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ID = 0xFFFFFFFE  # (uid_t) -1 means "leave it" to chown(2)
_MAX_SECONDS = 1 << 34  # ext4 ends in 2446; other filesystems clamp by themselves
_NS_PER_SECOND = 1_000_000_000
_DEVICE_TYPES = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK}
_MAX_MAJOR, _MAX_MINOR = 0xFFF, 0xFFFFF  # include/linux/kdev_t.h
_ACCESS_LISTS = b"system.posix_acl_"
# The kernel's answers to names and trees that make no sense; the rest is about the disk.
_ENTRY_ERRORS = frozenset(
    {
        errno.E2BIG, errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.EMLINK,
        errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EOPNOTSUPP, errno.EOVERFLOW,
        errno.EPERM, errno.ERANGE,
    }
)  # fmt: skip


class LayerWriter:
    """Writes entries one after another into an empty directory; `finish` sets what must come last.

    Args:
        root_fd: The directory; lent.
        parents: See `apply_layer`.
        what: Names the layer in errors.
        caps: The limits.
    """

    def __init__(self, root_fd: int, parents: Sequence[HostPath], *, what: str, caps: Caps) -> None:
        self._directories = Directories(root_fd, parents)
        self._what = what
        self._caps = caps
        self._last: dict[bytes, Entry] = {}
        self.size: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directories.close()

    def write(self, entry: Entry, data: Iterable[bytes]) -> None:
        """Make one file, or what a marker stands for. Raises: ImageError naming the entry."""
        with self._blamed_on(entry):
            self._write(entry, data)

    def finish(self) -> None:
        """Set times and access lists of directories: anything made inside would change or inherit them.

        Raises: ImageError naming the entry.
        """
        for path in sorted(self._last, reverse=True):
            entry = self._last[path]
            with self._blamed_on(entry):
                self._finish_directory(path, entry)
        self._directories.finish()

    @contextmanager
    def _blamed_on(self, entry: Entry) -> Iterator[None]:
        """Tell errors of an entry from errors of the disk."""
        try:
            yield
        except OSError as exc:
            if exc.errno in _ENTRY_ERRORS:
                raise self._bad(entry, os.strerror(exc.errno or 0).lower()) from exc
            raise

    def _finish_directory(self, path: bytes, entry: Entry) -> None:
        fd = self._directories.open(path, itself=True)
        if fd is None:
            return  # it was replaced later on
        try:
            for attribute in entry.xattrs:
                if attribute.startswith(_ACCESS_LISTS):
                    self._set_xattr(fd, entry, attribute, b"")
            self._directories.set_times(fd, entry.mtime_ns)
        finally:
            os.close(fd)

    # --- one entry ---

    def _write(self, entry: Entry, data: Iterable[bytes]) -> None:
        path = normalise(entry.name, self._caps)
        self._check(entry)
        if not path:
            self._write_root(entry)
            return
        if path.startswith(TAR_META_PREFIX) and not path.startswith(TAR_OPAQUE):
            return  # left over from AUFS, as in docker
        parent, _, name = path.rpartition(b"/")
        if any(part.startswith(TAR_PREFIX) for part in parent.split(b"/")):
            raise self._bad(entry, "names that begin with .wh. are reserved")
        parent_fd = self._directories.parent(parent)
        if name.startswith(TAR_PREFIX):
            self._write_marker(entry, parent_fd, name)
            return
        self._make(entry, data, parent_fd, name, path)

    def _check(self, entry: Entry) -> None:
        if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
            raise self._bad(entry, f"owner {entry.uid}:{entry.gid} is out of range")
        if abs(entry.mtime_ns) > _MAX_SECONDS * _NS_PER_SECOND:
            raise self._bad(entry, "its time is out of range")
        self.size += entry.size
        if self.size > self._caps.bytes:
            raise self._bad(entry, f"with it the layer has more than {self._caps.bytes} bytes")
        entry.xattrs = {name: value for name, value in entry.xattrs.items() if is_content_xattr(name)}

    def _write_root(self, entry: Entry) -> None:
        if entry.type != b"5":
            raise self._bad(entry, "the root must be a directory")
        fd = self._directories.root_fd
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        self._set_xattrs(fd, entry, b"", lists_later=True)
        self._directories.said(b"")
        self._last[b""] = entry

    def _write_marker(self, entry: Entry, parent_fd: int, name: bytes) -> None:
        """Turn a `.wh.` entry into what overlayfs understands; OCI image-spec, layer.md, "Whiteouts"."""
        if name == TAR_OPAQUE:
            setxattr(parent_fd, OPAQUE, YES)
            return
        if name.startswith(TAR_META_PREFIX):
            return
        hidden = name.removeprefix(TAR_PREFIX)
        if hidden in (b"", b".", b".."):
            raise self._bad(entry, "a whiteout of nothing")
        found = _lstat(parent_fd, hidden)
        if found is None:
            os.mknod(hidden, WHITEOUT_MODE, WHITEOUT_DEVICE, dir_fd=parent_fd)
            # A set-group-id parent would pass its group on, and the same layer look different.
            os.chown(hidden, 0, 0, dir_fd=parent_fd, follow_symlinks=False)
        elif stat.S_ISDIR(found.st_mode):
            # A whiteout hides what is below, never what the same layer brings.
            setxattr(parent_fd, OPAQUE, YES, hidden)

    def _make(self, entry: Entry, data: Iterable[bytes], parent_fd: int, name: bytes, path: bytes) -> None:
        existing = _lstat(parent_fd, name)
        if entry.type == b"5":
            self._make_directory(entry, parent_fd, name, path, existing)
            return
        if entry.type == b"1":
            self._make_link(entry, parent_fd, name, existing)
            return
        self._clear(parent_fd, name, existing)
        if entry.type == b"0":
            self._make_regular(entry, data, parent_fd, name)
            return
        if entry.type == b"2":
            os.symlink(entry.link, name, dir_fd=parent_fd)
        elif entry.type == b"6":
            os.mkfifo(name, 0o600, dir_fd=parent_fd)
        elif not self._make_device(entry, parent_fd, name, path):
            return
        os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        if entry.type != b"2":
            os.chmod(name, entry.mode, dir_fd=parent_fd)
        self._set_xattrs(parent_fd, entry, name)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent_fd, follow_symlinks=False)

    def _make_directory(
        self, entry: Entry, parent_fd: int, name: bytes, path: bytes, existing: os.stat_result | None
    ) -> None:
        if existing is not None and not stat.S_ISDIR(existing.st_mode):
            self._clear(parent_fd, name, existing)
        if existing is None or not stat.S_ISDIR(existing.st_mode):
            os.mkdir(name, dir_fd=parent_fd)
        if existing is not None and is_whiteout(existing):
            setxattr(parent_fd, OPAQUE, YES, name)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        os.chmod(name, entry.mode, dir_fd=parent_fd)
        self._set_xattrs(parent_fd, entry, name, lists_later=True)
        self._directories.said(path)
        self._last[path] = entry

    def _make_regular(self, entry: Entry, data: Iterable[bytes], parent_fd: int, name: bytes) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent_fd)
        try:
            if entry.extents is None:
                for chunk in data:
                    _write_all(fd, chunk)
            else:
                _write_extents(fd, entry, iter(data))
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)  # after chown(2), which clears set-user-id, and capabilities too
            self._set_xattrs(fd, entry, b"")
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _make_link(self, entry: Entry, parent_fd: int, name: bytes, existing: os.stat_result | None) -> None:
        target = normalise(entry.link, self._caps)
        target_parent, _, target_name = target.rpartition(b"/")
        target_fd = self._directories.open(target_parent)
        found = _lstat(target_fd, target_name) if target_fd is not None and target_name else None
        try:
            if target_fd is None or found is None:
                raise self._bad(entry, f"hard link to {shown(entry.link)}, which is not in this layer")
            if stat.S_ISDIR(found.st_mode) or is_whiteout(found):
                raise self._bad(entry, f"hard link to {shown(entry.link)}, which is no file")
            if existing is not None and (existing.st_dev, existing.st_ino) == (found.st_dev, found.st_ino):
                return
            self._clear(parent_fd, name, existing)
            os.link(target_name, name, src_dir_fd=target_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        finally:
            if target_fd is not None:
                os.close(target_fd)

    def _make_device(self, entry: Entry, parent_fd: int, name: bytes, path: bytes) -> bool:
        """Make a device node; False when it cannot be made and is not missed."""
        if not (0 <= entry.major <= _MAX_MAJOR and 0 <= entry.minor <= _MAX_MINOR):
            raise self._bad(entry, f"device number {entry.major}:{entry.minor} is out of range")
        device = os.makedev(entry.major, entry.minor)
        if entry.type == b"3" and device == WHITEOUT_DEVICE:
            raise self._bad(entry, "character device 0:0 would be taken for a whiteout")
        try:
            os.mknod(name, _DEVICE_TYPES[entry.type] | 0o600, device, dir_fd=parent_fd)
        except PermissionError:
            # The engine itself runs in a container; every container gets a /dev of its own anyway.
            if path.startswith(b"dev/"):
                return False
            raise
        return True

    def _clear(self, parent_fd: int, name: bytes, existing: os.stat_result | None) -> None:
        if existing is not None:
            remove_at.remove(parent_fd, name)
            self._directories.forget()

    def _set_xattrs(self, fd: int, entry: Entry, name: bytes, *, lists_later: bool = False) -> None:
        for attribute in entry.xattrs:
            if lists_later and attribute.startswith(_ACCESS_LISTS):
                continue
            if attribute == CAPABILITY_XATTR and entry.type != b"0":
                continue
            self._set_xattr(fd, entry, attribute, name)

    def _set_xattr(self, fd: int, entry: Entry, attribute: bytes, name: bytes) -> None:
        try:
            setxattr(fd, attribute, entry.xattrs[attribute], name)
        except OSError as exc:
            if exc.errno == errno.ENOSPC and os.statvfs(self._directories.root_fd).f_bavail:
                # So ext4 says that an inode's attributes do not fit into one block.
                raise self._bad(entry, "more extended attributes than this filesystem can keep of a file") from exc
            if exc.errno in _ENTRY_ERRORS:
                why = os.strerror(exc.errno or 0).lower()
                raise self._bad(entry, f"attribute {shown(attribute)}: {why}") from exc
            raise

    def _bad(self, entry: Entry, why: str) -> ImageError:
        return ImageError(f"{self._what}: entry {shown(entry.name)}: {why}")


def _lstat(parent_fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _write_extents(fd: int, entry: Entry, chunks: Iterator[bytes]) -> None:
    """Write a sparse file: the data is one run of bytes, to be laid out by the map."""
    pending = b""
    for offset, length in entry.extents or ():
        os.lseek(fd, offset, os.SEEK_SET)
        left = length
        while left:
            pending = pending or next(chunks)
            part, pending = pending[:left], pending[left:]
            _write_all(fd, part)
            left -= len(part)
    os.ftruncate(fd, entry.size)
