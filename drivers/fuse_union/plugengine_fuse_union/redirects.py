"""Follow the marks of overlayfs for what was moved (redirect) or copied without its data (metacopy)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from plugengine.trees import whiteouts

from plugengine_fuse_union import markers, whiteout_files
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.layers import LayerDir, root_of

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import DirNode
    from plugengine_fuse_union.union import Union

_NO_NAMES = frozenset({b"", b".", b".."})


class Place(NamedTuple):
    """Where something lies in a layer, and its attributes."""

    directory: LayerDir
    name: bytes
    status: os.stat_result


class Descent:
    """The way of one name down through the layers, as ovl_lookup() of fs/overlayfs/namei.c goes it.

    A redirect on what is found in one layer changes the name to look for in those below it: within the same directory,
    or if it begins with a slash from the root of each layer.
    """

    def __init__(self, union: Union, name: bytes, *, is_directory: bool = False, metacopy: bool = False) -> None:
        """Start above the layers.

        Args:
            union: The union.
            name: To look for.
            is_directory: Whether an upper directory is merged with what is found.
            metacopy: Whether an upper file has its data in what is found.
        """
        self.metacopy = metacopy  # the last file found has its data further down
        self._union = union
        self._name = name
        self._is_directory = is_directory
        self._stopped = False

    def heed(self, dir_fd: int, entry: bytes, before: bytes = b"", after: bytes = b"") -> None:
        """Go on as the redirect of an entry says, if it has one; `before` and `after` it is the rest of a path."""
        target = get_redirect(dir_fd, entry)
        if target is None:
            return
        if target.startswith(b"/"):
            self._name = target + after
            self._stopped = False  # even below an opaque directory
        else:
            self._name = before + target + after

    def find(self, candidates: Sequence[LayerDir]) -> list[Place]:
        """Return what directories of that name merge, or a file and those that it has its data from; topmost first."""
        roots = self._union.root.lowers
        layers = roots if self._name.startswith(b"/") else candidates
        found: list[Place] = []
        index = 0
        while not self._stopped and index < len(layers):
            base = layers[index]
            index += 1
            place = self._in_layer(base)
            if place is None:
                continue
            found.append(place)
            if layers is not roots and self._name.startswith(b"/"):
                layers, index = roots, roots.index(root_of(base)) + 1
        return found

    def find_data(self, candidates: Sequence[LayerDir]) -> Place:
        """Return where the data of a file lies.

        Raises:
            OSError: EIO: nowhere.
        """
        found = self.find(candidates)
        if self.metacopy or not found:
            raise refused(errno.EIO)
        return found[-1]

    def _in_layer(self, base: LayerDir) -> Place | None:
        if not self._name.startswith(b"/"):
            return self._element(base, self._name, b"", b"")
        rest = len(self._name) - 1  # counted from the end, as redirects of directories on the way change what is before
        while True:
            start = len(self._name) - rest
            element = self._name[start:].partition(b"/")[0]
            after = self._name[start + len(element) :]
            place = self._element(base, element, self._name[:start], after)
            if place is None or not after:
                return place
            base = LayerDir(base, element, base.device)
            rest -= len(element) + 1

    def _element(self, base: LayerDir, name: bytes, before: bytes, after: bytes) -> Place | None:
        """Look for one element of a path in one layer."""
        dir_fd = self._union.lower_fd(base)
        status = _lstat(dir_fd, name)
        marked = self._union.whiteout_files
        if status is None or whiteouts.is_whiteout(status):
            self._stopped |= status is not None or (marked and whiteout_files.is_removed(dir_fd, name))
            return None
        place = Place(base, name, status)
        if stat.S_ISDIR(status.st_mode):
            if self.metacopy and not after:
                self._stopped = True
                return None
            self._is_directory |= not after
            if markers.is_opaque(dir_fd, name) or (marked and whiteout_files.is_opaque(dir_fd, name)):
                self._stopped = True
                return place
        else:
            regular = stat.S_ISREG(status.st_mode)
            if after or self._is_directory or (self.metacopy and not regular):
                self._stopped = True
                return None
            self.metacopy = regular and is_metacopy(self._union, dir_fd, name)
            if not self.metacopy:
                self._stopped = True
                return place
        self.heed(dir_fd, name, before, after)
        return place


def directories_below(union: Union, parent: DirNode, dir_fd: int, name: bytes) -> tuple[LayerDir, ...]:
    """Return the layers' directories that merge with an upper one, which is not opaque."""
    descent = Descent(union, name, is_directory=True)
    descent.heed(dir_fd, name)
    return tuple(LayerDir(place.directory, place.name, place.directory.device) for place in descent.find(parent.lowers))


def data_below(union: Union, parent: DirNode, dir_fd: int, name: bytes) -> Place | None:
    """Return where the data of an upper file lies, if not with it."""
    if not is_metacopy(union, dir_fd, name):
        return None
    descent = Descent(union, name, metacopy=True)
    descent.heed(dir_fd, name)
    return descent.find_data(parent.lowers)


def get_redirect(dir_fd: int, name: bytes) -> bytes | None:
    """Return where an entry's counterpart in the layers below is, None if it was not moved.

    Raises:
        OSError: EINVAL: the mark is no name and no path, or would lead out of the layers.
    """
    value = markers.get_marker(dir_fd, name, whiteouts.REDIRECT)
    if value is None:
        return None
    target = value.partition(b"\0")[0]
    names = target.removeprefix(b"/").split(b"/")
    if not _NO_NAMES.isdisjoint(names) or (len(names) > 1 and not target.startswith(b"/")):
        raise refused(errno.EINVAL)
    return target


def refuse_redirect(dir_fd: int, name: bytes) -> None:
    """Refuse a directory with a redirect where those are not to be followed.

    Raises:
        OSError: EPERM.
    """
    if markers.get_marker(dir_fd, name, whiteouts.REDIRECT) is not None:
        raise refused(errno.EPERM)


def is_metacopy(union: Union, dir_fd: int, name: bytes) -> bool:
    """Tell whether a regular file has its data in a layer below.

    Raises:
        OSError: EPERM: it has, and that is not to be believed.
    """
    if markers.get_marker(dir_fd, name, whiteouts.METACOPY) is None:
        return False
    if not union.metacopy:
        raise refused(errno.EPERM)
    return True


def with_blocks_of(status: os.stat_result, data: os.stat_result) -> os.stat_result:
    """Return the attributes of a file whose data lies elsewhere: who reads st_blocks asks for holes."""
    extra = ("st_blksize", "st_rdev", "st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    return os.stat_result(
        tuple(status), {"st_blocks": data.st_blocks, **{name: getattr(status, name) for name in extra}}
    )


def _lstat(dir_fd: int, name: bytes) -> os.stat_result | None:
    try:
        return markers.lstat(dir_fd, name)
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise
        return None
