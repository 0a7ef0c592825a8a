"""Merged directory listings, ordered by a number of each name that no other change moves."""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from plugengine.trees.whiteouts import is_whiteout

from plugengine_fuse_union import whiteout_files
from plugengine_fuse_union.lookup import existing
from plugengine_fuse_union.nodes import MISSES_BORNE, DirNode

if TYPE_CHECKING:
    from plugengine_fuse_union.kept_listings import KeptListings
    from plugengine_fuse_union.nodes import Node
    from plugengine_fuse_union.union import Union

DT_DIR: Final = 4
DT_REG: Final = 8
DT_LNK: Final = 10
TYPE_SHIFT: Final = 12  # IFTODT and DTTOIF of dirent.h

# Positions 1 and 2 are "." and ".."; the kernel takes 63 bits.
FIRST_COOKIE: Final = 3
_COOKIE_MASK: Final = (1 << 62) - 1

MOST_NAMES: Final = 4096  # of a listing that nobody has read, and that only tells which names are absent

Item = tuple[bytes, int, int]  # name, DT_*, st_ino


class Listing:
    """The entries of one directory.

    The position of an entry is a hash of its name: a reader that goes on after others removed or added names
    neither misses nor repeats one, without a snapshot for each reader. Entries are put in order for the first
    reader; many listings only ever tell which names there are.
    """

    __slots__ = ("_cookies", "_order", "items", "kept")

    def __init__(self, items: Iterable[Item]) -> None:
        self.items = {item[0]: item for item in items}
        self.kept: KeptListings | None = None  # where its entries are counted
        self._cookies: array[int] | None = None  # of the names in `_order`, ascending; None: nobody has read it
        self._order: list[bytes] = []

    @property
    def read(self) -> bool:
        """Whether somebody has read it in order."""
        return self._cookies is not None

    def after(self, position: int) -> Iterator[tuple[int, Item]]:
        """Yield (position, entry) of what comes after a position."""
        cookies = self._cookies if self._cookies is not None else self._sort()
        for index in range(bisect_right(cookies, position), len(cookies)):
            yield cookies[index], self.items[self._order[index]]

    def _sort(self) -> array[int]:
        pairs = sorted((_cookie(name), name) for name in self.items)
        cookies = self._cookies = array("q", (cookie for cookie, _ in pairs))
        self._order = [name for _, name in pairs]
        for index in range(1, len(pairs)):
            if cookies[index] <= cookies[index - 1]:
                cookies[index] = cookies[index - 1] + 1
        return cookies

    def add(self, item: Item) -> None:
        """Add an entry, or replace the one of the same name."""
        name = item[0]
        if self._cookies is not None and name not in self.items:
            cookie = _cookie(name)
            index = bisect_left(self._cookies, cookie)
            while index < len(self._cookies) and self._cookies[index] == cookie:
                cookie += 1
                index += 1
            self._cookies.insert(index, cookie)
            self._order.insert(index, name)
        if self.kept is not None and name not in self.items:
            self.kept.entries += 1
        self.items[name] = item

    def discard(self, name: bytes) -> None:
        """Remove an entry; one that is not there counts as removed."""
        if self.items.pop(name, None) is None:
            return
        if self.kept is not None:
            self.kept.entries -= 1
        if self._cookies is None:
            return
        index = bisect_left(self._cookies, _cookie(name))
        while self._order[index] != name:  # names of one hash stand side by side
            index += 1
        del self._cookies[index]
        del self._order[index]

    def clear(self) -> None:
        """Hold nothing any more."""
        self.items = {}
        self._cookies, self._order = None, []


def _cookie(name: bytes) -> int:
    return (hash(name) & _COOKIE_MASK) + FIRST_COOKIE


def listing(union: Union, node: DirNode) -> Listing:
    """Return the entries of a directory, read from the layers where they are not known."""
    if node.listing is not None:
        return node.listing
    with _held(node):
        made = Listing(() if node.gone else _merge(union, node))
    union.listings.keep(node, made)
    return made


def entered(union: Union, parent: DirNode, name: bytes, node: Node) -> None:
    """Add an entry to a directory's listing, if there is one."""
    made = parent.listing
    if made is None:
        return
    if made.read or len(made.items) < MOST_NAMES:
        made.add((name, node.kind >> TYPE_SHIFT, node.ino))
        union.listings.trim()
    else:
        union.listings.drop(parent)


def missed(union: Union, node: DirNode) -> None:
    """Take note that a name was looked for in vain: a directory asked often is listed, and its listing answers then.

    Programs look for most of their files in several directories: each entry of a path, a header in each place it may
    be. Directories of the upper one are left out: reading them changes a time that everybody can see.
    """
    node.patience -= 1
    if node.patience or node.upper or node.listing is not None:
        return
    try:
        made = listing(union, node)
    except OSError:
        return  # nobody asked for it
    # A larger one is read in vain. One that had to make room for others must be missed for longer than it takes.
    node.patience = -1 if len(made.items) > MOST_NAMES else MISSES_BORNE + len(made.items)


def list_names(union: Union, node: DirNode) -> list[bytes]:
    """Return the names in a directory."""
    return list(listing(union, node).items)


def is_empty(union: Union, node: DirNode) -> bool:
    """Tell whether a directory shows no entry."""
    if node.listing is not None:
        return not node.listing.items
    with _held(node):
        return next(_merge(union, node), None) is None


@contextmanager
def _held(node: DirNode) -> Iterator[None]:
    """Keep a directory's descriptor while it is read: letting an entry go may let its parent go as well."""
    node.lookups += 1
    try:
        yield
    finally:
        node.lookups -= 1


def _merge(union: Union, node: DirNode) -> Iterator[Item]:
    seen: set[bytes] = set()
    if node.upper:
        for item in _scan(union.upper_fd(node), seen, 0, union):
            yield _as_shown(union, node, item)
    for directory in node.lowers:
        yield from _scan(union.lower_fd(directory), seen, directory.device, union, marked=union.whiteout_files)


def _as_shown(union: Union, node: DirNode, item: Item) -> Item:
    """Correct the number of an upper entry that keeps the one it had in a layer."""
    name, kind, _ = item
    if node.impure or (kind == DT_DIR and (node.lowers or union.follows)):
        try:
            entry = existing(union, node, name)
        except OSError:
            return item  # the name is listed, and a look at it gives the error
        item = (name, kind, entry.ino)
        union.drop(entry)
    return item


def _scan(fd: int, seen: set[bytes], device: int, union: Union, *, marked: bool = False) -> Iterator[Item]:
    """Yield the entries of one directory that no upper one hides, and add their names to `seen`."""
    removed: list[bytes] = []  # by files of this layer, from those below
    # The descriptor is kept, and Btrfs reads up to the entry that was the last when it was opened or set back
    # (e60aa5da14d0).
    os.lseek(fd, 0, os.SEEK_SET)
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if marked and whiteout_files.is_marker(name):
                removed.append(whiteout_files.marked(name))
                continue
            if name in seen:
                continue
            seen.add(name)
            if entry.is_file(follow_symlinks=False):
                kind = DT_REG
            elif entry.is_dir(follow_symlinks=False):
                kind = DT_DIR
            elif entry.is_symlink():
                kind = DT_LNK
            else:
                status = entry.stat(follow_symlinks=False)
                if is_whiteout(status):
                    continue
                kind = stat.S_IFMT(status.st_mode) >> TYPE_SHIFT
            yield name, kind, union.number(entry.inode(), device)
    seen.update(removed)
