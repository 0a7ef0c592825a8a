"""Trees described as data: made as a layer by the engine's own applier, or upon a plain directory to compare with."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Final

from msgspec import Struct, field

from plugengine.images.layers.apply import apply_layer
from plugengine.images.tar import write
from plugengine.model import HostPath

LONG_AGO_NS: Final = 1_500_000_000_123_456_789  # with a fraction: a driver that cuts it off is found out
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


class Item(Struct, frozen=True, kw_only=True):
    """One entry of a layer."""

    path: str  # relative to the root; "" is the root
    type: bytes  # as in a tar; see plugengine.images.tar.write
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    link: str = ""
    device: tuple[int, int] = (0, 0)
    mtime_ns: int = LONG_AGO_NS
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def hides(self) -> str | None:
        """Return the path a whiteout hides; None for what is none."""
        parent, name = os.path.split(self.path)
        return os.path.join(parent, name.removeprefix(_WHITEOUT)) if name.startswith(_WHITEOUT) else None


Items = Iterable[Item]


def directory(
    path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, xattrs: Mapping[str, bytes] | None = None
) -> Item:
    """A directory; of one that lower layers have too, its own attributes are what is seen."""
    return Item(path=path, type=write.DIRECTORY, mode=mode, uid=uid, gid=gid, xattrs=xattrs or {})


def file(
    path: str,
    data: bytes | str = b"",
    mode: int = 0o644,
    *,
    uid: int = 0,
    gid: int = 0,
    xattrs: Mapping[str, bytes] | None = None,
) -> Item:
    """A regular file."""
    content = data.encode() if isinstance(data, str) else data
    return Item(path=path, type=write.REGULAR, data=content, mode=mode, uid=uid, gid=gid, xattrs=xattrs or {})


def symlink(path: str, target: str) -> Item:
    """A symbolic link."""
    return Item(path=path, type=write.SYMLINK, link=target, mode=0o777)


def hardlink(path: str, first: str) -> Item:
    """Another name of a file of the same layer."""
    return Item(path=path, type=write.HARD_LINK, link=first)


def fifo(path: str, mode: int = 0o600) -> Item:
    """A named pipe."""
    return Item(path=path, type=write.FIFO, mode=mode)


def device(path: str, kind: str, major: int, minor: int, mode: int = 0o600) -> Item:
    """A device node; `kind` is "c" or "b"."""
    entry_type = write.CHARACTER if kind == "c" else write.BLOCK_DEVICE
    return Item(path=path, type=entry_type, device=(major, minor), mode=mode)


def whiteout(path: str) -> Item:
    """What hides the entry of this path in the layers below."""
    parent, name = os.path.split(path)
    return Item(path=os.path.join(parent, _WHITEOUT + name), type=write.REGULAR, mode=0)


def opaque(path: str) -> Item:
    """What hides all that the layers below have in a directory."""
    return Item(path=os.path.join(path, _OPAQUE), type=write.REGULAR, mode=0)


def tar(items: Items) -> bytes:
    """Return the layer tar."""
    out = bytearray()
    for item in items:
        name = item.path or "./"
        out += write.encode_header(
            write.Header(
                name=os.fsencode(name),
                type=item.type,
                mode=item.mode,
                uid=item.uid,
                gid=item.gid,
                size=len(item.data),
                mtime_ns=item.mtime_ns,
                link=os.fsencode(item.link),
                major=item.device[0],
                minor=item.device[1],
                xattrs={os.fsencode(key): value for key, value in item.xattrs.items()},
            )
        )
        out += item.data + write.padding(len(item.data))
    return bytes(out) + write.ending(len(out))


def unpack_tar(data: bytes, target: HostPath, parents: tuple[HostPath, ...]) -> None:
    """Unpack a layer tar as the engine's layer store does."""
    apply_layer(BytesIO(data), target, parents=parents)


def apply_plainly(items: Items, root: str) -> None:
    """Bring about in a plain directory what a layer says, as one would by hand."""
    items = tuple(items)
    before = {path: os.stat(path).st_mtime_ns for path, _names, _files in os.walk(root)}
    for item in items:
        if item.hides is not None and not item.path.endswith(_OPAQUE):
            _delete(f"{root}/{item.hides}")
        elif item.hides is not None:
            for name in os.listdir(f"{root}/{os.path.dirname(item.path)}"):
                _delete(f"{root}/{os.path.dirname(item.path)}/{name}")
    for item in items:
        if item.hides is None:
            _make(item, root)
    for item in items:
        if item.hides is None and item.type == write.DIRECTORY:
            before[os.path.normpath(f"{root}/{item.path}")] = item.mtime_ns
    for path, mtime_ns in before.items():  # whatever was made inside has changed them
        if os.path.isdir(path):
            os.utime(path, ns=(mtime_ns, mtime_ns))


def _make(item: Item, root: str) -> None:
    path = os.path.normpath(f"{root}/{item.path}")
    if item.type == write.HARD_LINK:
        _delete(path)
        os.link(f"{root}/{item.link}", path, follow_symlinks=False)
        return
    is_directory = item.type == write.DIRECTORY
    if not (is_directory and os.path.isdir(path) and not os.path.islink(path)):
        _delete(path)
        _make_new(item, path)
    os.chown(path, item.uid, item.gid, follow_symlinks=False)
    if item.type != write.SYMLINK:
        os.chmod(path, item.mode)
    for name in os.listxattr(path, follow_symlinks=False) if is_directory else ():
        if name not in item.xattrs and name.startswith("user."):
            os.removexattr(path, name)
    for name, value in item.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(item.mtime_ns, item.mtime_ns), follow_symlinks=False)


def _make_new(item: Item, path: str) -> None:
    if item.type == write.DIRECTORY:
        os.mkdir(path)
    elif item.type == write.SYMLINK:
        os.symlink(item.link, path)
    elif item.type == write.REGULAR:
        with open(path, "xb") as stream:
            stream.write(item.data)
    elif item.type == write.FIFO:
        os.mkfifo(path)
    else:
        kind = stat.S_IFCHR if item.type == write.CHARACTER else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(*item.device))


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
