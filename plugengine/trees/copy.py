"""Copy a tree by descriptor: data, holes, owners, modes, times, attributes, links and special files."""

from __future__ import annotations

import errno
import os
import stat

from plugengine.kernel.attributes import (
    fchmodat,
    fchownat,
    getxattr,
    listxattr,
    setxattr,
    utimensat,
)
from plugengine.kernel.files import ficlone
from plugengine.model import IdRange, UserMap, host_id
from plugengine.trees.walk import DIRECTORY, Descent
from plugengine.trees.whiteouts import STEERING

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 30
# The filesystem shares no blocks, or has no such attributes.
_NOT_HERE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
# By these overlayfs steers itself; they are no content unless a layer is copied as it is.
_STEERING = (STEERING, "user.overlay.")


class EntryCopy:
    """Copies entries one by one into the tree below a directory.

    Args:
        target_fd: The tree's root; lent.
        user_map: Owners inside this map become those outside.
        is_layer: Copy a layer: what steers overlayfs comes along.
    """

    def __init__(self, target_fd: int, *, user_map: UserMap | None = None, is_layer: bool = False) -> None:
        self.target_fd = target_fd
        self._user_map = user_map
        self._is_layer = is_layer
        self._links: dict[tuple[int, int], str] = {}  # of files with several names: where the first one is

    def entry(self, source_fd: int, source: str, target: Descent, name: str) -> bool:
        """Copy one entry into the directory a descent is in.

        Args:
            source_fd: Directory in which `source` is looked up.
            source: Name of the entry; as a path only where what leads to it is known to be directories.
            target: A descent from the tree's root.
            name: The entry's new name.

        Returns:
            True for a directory: it was made, empty and closed to others; `attributes` is for when it is filled.
        """
        fd = os.open(source, _ENTRY, dir_fd=source_fd)
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                os.mkdir(name, 0o700, dir_fd=target.fd)
                return True
            if not self._link(target, name, found):
                self._make(source_fd, source, target.fd, name, fd, found)
            return False
        finally:
            os.close(fd)

    def _link(self, target: Descent, name: str, found: os.stat_result) -> bool:
        """Give the copy of a file that was met before this name too."""
        if found.st_nlink == 1:
            return False
        here = f"{target.path}/{name}".lstrip("/")
        first = self._links.setdefault((found.st_dev, found.st_ino), here)
        if first is here:
            return False
        try:
            os.link(first, name, src_dir_fd=self.target_fd, dst_dir_fd=target.fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in (errno.EMLINK, errno.ENAMETOOLONG):
                return False  # a copy of its own
            raise
        return True

    def _make(self, source_fd: int, source: str, target_fd: int, name: str, fd: int, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode):
            self._regular(source_fd, source, target_fd, name)
            return
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink("", dir_fd=fd), name, dir_fd=target_fd)
        else:
            os.mknod(name, stat.S_IFMT(found.st_mode) | 0o600, found.st_rdev, dir_fd=target_fd)
        made = os.open(name, _ENTRY, dir_fd=target_fd)
        try:
            self.attributes(fd, made, found)
        finally:
            os.close(made)

    def _regular(self, source_fd: int, source: str, target_fd: int, name: str) -> None:
        read_fd = os.open(source, _READ, dir_fd=source_fd)
        try:
            found = os.fstat(read_fd)
            write_fd = os.open(name, _MAKE, 0o600, dir_fd=target_fd)
            try:
                copy_data(read_fd, write_fd, found.st_size)
                self.attributes(read_fd, write_fd, found)
            finally:
                os.close(write_fd)
        finally:
            os.close(read_fd)

    def attributes(self, source_fd: int, target_fd: int, found: os.stat_result) -> None:
        """Copy owner, attributes, mode and times, in this order: each may be lost by an earlier one, chown(2)."""
        fchownat(target_fd, b"", *owner_outside(found, self._user_map))
        for attribute in listxattr(source_fd):
            if self._is_layer or not attribute.startswith(_STEERING):
                _copy_xattr(source_fd, target_fd, attribute)
        if not stat.S_ISLNK(found.st_mode):
            fchmodat(target_fd, b"", stat.S_IMODE(found.st_mode))
        utimensat(target_fd, b"", found.st_atime_ns, found.st_mtime_ns)


class TreeCopy(EntryCopy):
    """One copy of everything below a directory into another, which is empty.

    Args:
        source_fd: Directory to copy from; lent. Its tree does not cross mounts.
        target_fd: Directory to copy into; lent. It gets the source's owner, mode, times and attributes.
        user_map: Owners inside this map become those outside.
        is_layer: Copy a layer: what steers overlayfs comes along.
    """

    def __init__(
        self, source_fd: int, target_fd: int, *, user_map: UserMap | None = None, is_layer: bool = False
    ) -> None:
        super().__init__(target_fd, user_map=user_map, is_layer=is_layer)
        self._source_fd = source_fd

    def run(self) -> None:
        """Copy.

        Raises:
            OSError: As the kernel says; what was copied so far stays.
        """
        source = Descent(os.open(".", DIRECTORY, dir_fd=self._source_fd))
        with source, Descent(os.open(".", DIRECTORY, dir_fd=self.target_fd)) as target:
            while True:
                name = source.next()
                if name is not None:
                    if self.entry(source.fd, name, target, name):
                        source.down(name)
                        target.down(name)
                    continue
                self.attributes(source.fd, target.fd, os.fstat(source.fd))
                if not source.depth:
                    return
                source.up()
                target.up()


def copy_data(source_fd: int, target_fd: int, size: int) -> None:
    """Copy a file's data into an empty one: shared where the filesystem can, holes stay holes."""
    try:
        ficlone(target_fd, source_fd)
    except OSError as exc:
        if exc.errno not in _NOT_HERE:
            raise
    else:
        return
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(source_fd, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        offset = os.lseek(source_fd, begin, os.SEEK_HOLE)
        _copy_range(source_fd, target_fd, begin, offset)
    os.ftruncate(target_fd, size)


def owner_outside(found: os.stat_result, user_map: UserMap | None) -> tuple[int, int]:
    """Return the (uid, gid) outside a map for a file whose owners are inside it; ids that are not mapped stay."""
    return outside(found.st_uid, found.st_gid, user_map)


def outside(uid: int, gid: int, user_map: UserMap | None) -> tuple[int, int]:
    """Return the (uid, gid) outside a map for an owner inside it; ids that are not mapped stay."""
    return (uid, gid) if user_map is None else (id_outside(uid, user_map.uids), id_outside(gid, user_map.gids))


def inverse(user_map: UserMap) -> UserMap:
    """Return the map that leads back: what is outside becomes inside."""

    def turned(ranges: tuple[IdRange, ...]) -> tuple[IdRange, ...]:
        return tuple(IdRange(guest=each.host, host=each.guest, size=each.size) for each in ranges)

    return UserMap(uids=turned(user_map.uids), gids=turned(user_map.gids))


def id_outside(number: int, ranges: tuple[IdRange, ...]) -> int:
    """Return the id outside for one inside; one that is not mapped stays."""
    found = host_id(ranges, number)
    return number if found is None else found


def _copy_range(source_fd: int, target_fd: int, begin: int, end: int) -> None:
    os.lseek(target_fd, begin, os.SEEK_SET)
    while begin < end:
        # sendfile(2) and not copy_file_range(2): that one fails between some filesystems, and on others has
        # returned 0 for files whose size is not known beforehand.
        copied = os.sendfile(target_fd, source_fd, begin, min(end - begin, _CHUNK_BYTES))
        if copied == 0:
            return
        begin += copied


def _copy_xattr(source_fd: int, target_fd: int, attribute: str) -> None:
    try:
        setxattr(target_fd, attribute, getxattr(source_fd, attribute))
    except OSError as exc:
        # Gone meanwhile, unknown to the target's filesystem, or a label that only the security module may set.
        if exc.errno not in (errno.ENODATA, errno.EOPNOTSUPP) and not attribute.startswith("security.selinux"):
            raise
