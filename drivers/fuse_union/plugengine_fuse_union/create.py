"""Make files, directories, symlinks, special files and hard links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from plugengine.kernel.files import RENAME_EXCHANGE, link_fd, renameat2
from plugengine.trees import whiteouts

from plugengine_fuse_union import markers
from plugengine_fuse_union.copyup import copy_up, mark_impure
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.listing import Listing, entered
from plugengine_fuse_union.lookup import add_name, register_link
from plugengine_fuse_union.nodes import DirNode, Node
from plugengine_fuse_union.stage import remove_quietly

if TYPE_CHECKING:
    from plugengine_fuse_union.union import Union

_CREATE_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SETID: Final = stat.S_ISUID | stat.S_ISGID

# Makes an entry, given the directory's descriptor and the name; returns a descriptor of it where it has one, else None.
Maker = Callable[[int, bytes], "int | None"]
Made: TypeAlias = "tuple[Node, os.stat_result]"  # the attributes spare who answers a look at the disk


class Caller:
    """Who asks: what is made belongs to them.

    Raises:
        OSError: EOVERFLOW: the ids, which are the kernel's, have no place on the disk.
    """

    __slots__ = ("gid", "uid", "umask")

    def __init__(self, union: Union, uid: int, gid: int, umask: int = 0) -> None:
        self.uid = uid if union.owners is None else union.owners.uid_to_disk(uid)
        self.gid = gid if union.owners is None else union.owners.gid_to_disk(gid)
        self.umask = umask


def create(union: Union, parent: DirNode, name: bytes, mode: int, caller: Caller) -> tuple[Made, int]:
    """Make a regular file and return it with a descriptor open as `Union.made_flags` says."""
    flags = _CREATE_FLAGS | union.made_flags
    opened: list[int] = []

    def make(dir_fd: int, entry: bytes) -> int:
        opened.append(os.open(entry, flags, stat.S_IMODE(mode), dir_fd=dir_fd))
        return opened[-1]

    try:
        made = _make(union, parent, name, caller, make)
    except BaseException:
        for fd in opened:
            os.close(fd)
        raise
    return made, opened[-1]


def mknod(union: Union, parent: DirNode, name: bytes, mode: int, device: int, caller: Caller) -> Made:
    """Make a file of any kind but a directory or symlink."""
    if stat.S_ISCHR(mode) and device == 0:
        raise refused(errno.EPERM)  # it would be a whiteout; the kernel's overlayfs refuses it too
    return _make(union, parent, name, caller, lambda fd, entry: os.mknod(entry, mode, device, dir_fd=fd))


def symlink(union: Union, parent: DirNode, name: bytes, target: bytes, caller: Caller) -> Made:
    """Make a symlink."""
    return _make(union, parent, name, caller, lambda fd, entry: os.symlink(target, entry, dir_fd=fd))


def mkdir(union: Union, parent: DirNode, name: bytes, mode: int, caller: Caller) -> Made:
    """Make a directory; that it is empty need not be read."""
    node, status = _make(union, parent, name, caller, lambda fd, entry: os.mkdir(entry, mode, dir_fd=fd))
    if isinstance(node, DirNode):
        union.listings.keep(node, Listing(()))
    return node, status


def tmpfile(union: Union, parent: DirNode, mode: int, caller: Caller) -> tuple[Node, int]:
    """Make a file without a name (O_TMPFILE) and return it with a descriptor of its own."""
    _prepare(union, parent, caller)
    fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, stat.S_IMODE(mode), dir_fd=union.upper_fd(parent))
    try:
        status = _own_open(union.upper_fd(parent), fd, caller)
        node = Node(parent, b"", stat.S_IFREG, union.number(status.st_ino, 0), upper=True)
        node.gone = True
        node.fd = os.dup(fd)
    except BaseException:
        os.close(fd)
        raise
    return node, fd


def link(union: Union, node: Node, parent: DirNode, name: bytes) -> Node:
    """Give a file one more name; a file of a layer is copied up first, which takes it out of its links there."""
    if isinstance(node, DirNode):
        raise refused(errno.EPERM)
    stage = union.require_writable()
    if node.gone and not node.upper:
        raise refused(errno.ENOENT)
    copy_up(union, node)
    copy_up(union, parent)
    dir_fd = union.upper_fd(parent)
    try:
        _link_to(union, node, dir_fd, name)
    except FileExistsError:
        _require_whiteout(dir_fd, name)
        temporary = stage.new_name()
        _link_to(union, node, stage.fd, temporary)
        os.rename(temporary, name, src_dir_fd=stage.fd, dst_dir_fd=dir_fd)
    _link_made(union, node, parent, name, dir_fd)
    return node


def _link_to(union: Union, node: Node, dir_fd: int, name: bytes) -> None:
    if node.fd >= 0:
        link_fd(node.fd, dir_fd, name)
        return
    source_fd, source = union.place(node)
    os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)


def _link_made(union: Union, node: Node, parent: DirNode, name: bytes, dir_fd: int) -> None:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if node.ino != union.number(status.st_ino, 0):
        mark_impure(union, parent)
    if node.gone:
        node.gone = False  # it was made with O_TMPFILE
    elif not node.link:
        register_link(union, node, status.st_ino)
    add_name(node, parent, name)
    _entered(union, parent, name, node)


def _make(union: Union, parent: DirNode, name: bytes, caller: Caller, make: Maker) -> Made:
    if name in parent.children:
        raise refused(errno.EEXIST)
    _prepare(union, parent, caller)
    dir_fd = union.upper_fd(parent)
    try:
        fd = make(dir_fd, name)
    except FileExistsError:
        _require_whiteout(dir_fd, name)
        _make_over_whiteout(union, dir_fd, name, caller, make)
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)  # the move changed a time
    else:
        status = _own(dir_fd, dir_fd, name, caller, fd)
    kind = stat.S_IFMT(status.st_mode)
    ino = union.number(status.st_ino, 0)
    node = (DirNode if kind == stat.S_IFDIR else Node)(parent, name, kind, ino, upper=True)
    _entered(union, parent, name, node)
    return node, status


def _prepare(union: Union, parent: DirNode, caller: Caller) -> None:
    if parent.gone:
        raise refused(errno.ENOENT)
    union.require_writable()
    copy_up(union, parent)
    # The upper's filesystem applies the umask unless the directory has a default ACL; see acl(5), "OBJECT CREATION".
    if caller.umask != union.umask:
        union.umask = caller.umask
        os.umask(caller.umask)


def _entered(union: Union, parent: DirNode, name: bytes, node: Node) -> None:
    parent.children[name] = node
    entered(union, parent, name, node)


def _require_whiteout(dir_fd: int, name: bytes) -> None:
    status = markers.lstat(dir_fd, name)
    if status is not None and not whiteouts.is_whiteout(status):
        raise refused(errno.EEXIST)


def _make_over_whiteout(union: Union, dir_fd: int, name: bytes, caller: Caller, make: Maker) -> None:
    """Make the entry in the stage, in a directory that passes on the same group and ACL, and put it in place."""
    stage = union.require_writable()
    nest, nest_fd = stage.nest_like(dir_fd, os.fstat(dir_fd))
    try:
        fd = make(nest_fd, name)
        status = _own(dir_fd, nest_fd, name, caller, fd)
        if stat.S_ISDIR(status.st_mode):
            markers.set_marker(nest_fd, name, whiteouts.OPAQUE, whiteouts.YES)
            renameat2(nest_fd, name, dir_fd, name, RENAME_EXCHANGE)
        else:
            os.rename(name, name, src_dir_fd=nest_fd, dst_dir_fd=dir_fd)
    finally:
        remove_quietly(nest_fd, name)
        os.close(nest_fd)
        os.rmdir(nest, dir_fd=stage.fd)


def _own(parent_fd: int, dir_fd: int, name: bytes, caller: Caller, fd: int | None) -> os.stat_result:
    """Give a new entry to the caller; the group of a setgid directory has been passed on by the filesystem."""
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False) if fd is None else os.fstat(fd)
    uid, gid = _owner(parent_fd, caller)
    if uid == status.st_uid and gid in {-1, status.st_gid}:
        return status
    os.chown(name, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
    if status.st_mode & _SETID and not stat.S_ISDIR(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=dir_fd)
    return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)


def _own_open(parent_fd: int, fd: int, caller: Caller) -> os.stat_result:
    status = os.fstat(fd)
    uid, gid = _owner(parent_fd, caller)
    os.chown(fd, uid, gid)
    os.chmod(fd, stat.S_IMODE(status.st_mode))
    return os.fstat(fd)


def _owner(parent_fd: int, caller: Caller) -> tuple[int, int]:
    if caller.uid == 0 and caller.gid == 0:
        return 0, -1  # made as root: the group is root's, or the setgid directory's
    return caller.uid, -1 if os.fstat(parent_fd).st_mode & stat.S_ISGID else caller.gid
