"""What a native diff must come to: changes and a layer found out by comparing two trees entry by entry."""

from __future__ import annotations

import os
import stat
from typing import Final

from msgspec.structs import replace

from plugengine.images.layers.overlay_form import is_content_xattr
from plugengine.images.tar import write
from plugengine.model import Change, GuestPath
from plugengine.testing.storage.described import Item, whiteout
from plugengine.testing.storage.snapshot import Entry, Tree

_TYPES: Final = {
    "file": write.REGULAR,
    "directory": write.DIRECTORY,
    "symlink": write.SYMLINK,
    "character device": write.CHARACTER,
    "block device": write.BLOCK_DEVICE,
    "fifo": write.FIFO,
}


def naive_changes(before: Tree, after: Tree) -> list[Change]:
    """Return what differs between two trees, by path.

    A deleted directory is one change; a directory is changed also if anything in it is. The root is left out.
    """
    kinds: dict[str, str] = {}
    for path in before.keys() | after.keys():
        if not path or _content(before.get(path)) == _content(after.get(path)):
            continue
        if path not in after:
            parent = after.get(os.path.dirname(path))
            if parent is not None and parent.kind == "directory":
                kinds[path] = "D"
        else:
            kinds[path] = "C" if path in before else "A"
    for path in list(kinds):
        above = os.path.dirname(path)
        while above:
            kinds.setdefault(above, "C")
            above = os.path.dirname(above)
    return [Change(path=GuestPath(f"/{path}"), kind=kinds[path]) for path in sorted(kinds)]


def naive_layer(root: str, before: Tree, after: Tree) -> list[Item]:
    """Return the layer that turns one tree into another; `root` has the files of the second."""
    items = [] if before[""] == after[""] else [_item(root, "", after[""])]
    firsts: dict[str, str] = {}
    for change in sorted(naive_changes(before, after), key=lambda change: change.path):
        path = change.path[1:]
        if change.kind == "D":
            items.append(whiteout(path))
            continue
        entry = after[path]
        first = next((name for name in entry.links if name in firsts), None)
        if first is not None:
            items.append(Item(path=path, type=write.HARD_LINK, link=first))
        elif entry.kind in _TYPES:
            firsts[path] = path
            items.append(_item(root, path, entry))
    return items


def _content(entry: Entry | None) -> Entry | None:
    """Return what is compared: a name does not change because another name of the same file does."""
    return None if entry is None else replace(entry, links=())


def _item(root: str, path: str, entry: Entry) -> Item:
    data = b""
    if entry.kind == "file":
        with open(f"{root}/{path}", "rb") as stream:
            data = stream.read()
    status = os.lstat(f"{root}/{path}")
    return Item(
        path=path,
        type=_TYPES[entry.kind],
        data=data,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        link=entry.target or "",
        device=entry.device or (0, 0),
        mtime_ns=status.st_mtime_ns,
        xattrs={name: value for name, value in entry.xattrs if is_content_xattr(os.fsencode(name))},
    )
