"""Copy an object of a layer to the upper directory, complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from plugengine.trees import remove_at, whiteouts

from plugengine_fuse_union import markers, transfer
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.layers import DIRECTORY_FLAGS
from plugengine_fuse_union.listing import list_names
from plugengine_fuse_union.lookup import existing
from plugengine_fuse_union.nodes import DirNode, Node
from plugengine_fuse_union.opened import follow_copy_up

if TYPE_CHECKING:
    from plugengine_fuse_union.stage import Stage
    from plugengine_fuse_union.union import Union


def copy_up(union: Union, node: Node, *, size: int | None = None) -> None:
    """Make sure that a node and all its parents are in the upper directory, and of a file the data.

    The copy is made in the stage with data, owner, mode, xattrs and times, reaches the disk, and is renamed into
    place. The modification time of the directory it appears in does not change.

    Args:
        union: The union.
        node: Any node.
        size: Bytes of a file's data that will be needed; None for all.

    Raises:
        OSError: EROFS without an upper directory; ENOSPC and the like, with nothing left behind.
    """
    if node.upper:
        if node.data is not None:
            _complete(union, node, size)
        return
    stage = union.require_writable()
    missing = [node]
    while not missing[-1].parent.upper and not missing[-1].gone:
        missing.append(missing[-1].parent)
    for entry in reversed(missing):
        if isinstance(entry, DirNode):
            _copy_directory(union, stage, entry)
        else:
            _copy_leaf(union, stage, entry, size)


def _copy_directory(union: Union, stage: Stage, node: DirNode) -> None:
    if node.gone:
        raise refused(errno.ENOENT)
    source = union.lower_fd(node.lowers[0])
    status = os.fstat(source)
    if union.quota is not None:
        union.quota.require(union.quota.unit)
    name = stage.new_name()
    os.mkdir(name, 0o700, dir_fd=stage.fd)
    try:
        copy = os.open(name, DIRECTORY_FLAGS, dir_fd=stage.fd)
        try:
            os.chown(copy, status.st_uid, status.st_gid)
            transfer.copy_xattrs(source, copy)
            os.chmod(copy, stat.S_IMODE(status.st_mode))
        finally:
            os.close(copy)
        transfer.copy_times(status, stage.fd, name)
        _publish(union, stage, node, name)
    except BaseException:
        remove_at.remove(stage.fd, name)
        raise


def _copy_leaf(union: Union, stage: Stage, node: Node, size: int | None) -> None:
    dir_fd, source_name = union.place(node)
    status = os.stat(source_name, dir_fd=dir_fd, follow_symlinks=False)
    name = stage.new_name()
    copy = -1
    try:
        if stat.S_ISREG(status.st_mode):
            copy = _copy_file(union, node, status, stage.fd, name, size)
        else:
            _copy_special(node, status, (dir_fd, source_name), (stage.fd, name))
        if node.gone:
            _keep_without_name(stage, node, name, copy)
            if union.quota is not None:
                union.quota.add_copy(node, os.fstat(node.fd))
            follow_copy_up(union, node)
            return
        _publish(union, stage, node, name, keeps_inode=status.st_nlink == 1)
    except BaseException:
        if copy >= 0 and node.fd != copy:
            os.close(copy)
        remove_at.remove(stage.fd, name)
        raise
    if copy >= 0:
        union.keep(node, copy)
        if node.nodeid:
            union.fresh_copies.add(node.nodeid)
    follow_copy_up(union, node)
    if status.st_nlink > 1:
        # One name of several leaves its link, as in overlayfs without "index"; a new file has a new number.
        node.ino = union.number(union.status(node).st_ino, 0)
        node.parent.listing = None


def _keep_without_name(stage: Stage, node: Node, name: bytes, copy: int) -> None:
    """Give a removed file of a layer, which is still open somewhere, a copy that has no name either."""
    if copy < 0:
        copy = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stage.fd)
    node.fd = copy
    os.unlink(name, dir_fd=stage.fd)
    node.upper, node.lower, node.data = True, None, None


def _copy_file(union: Union, node: Node, status: os.stat_result, stage_fd: int, name: bytes, size: int | None) -> int:
    """Make the copy of a regular file and return a descriptor of it, for reading and writing."""
    wanted = status.st_size if size is None else min(size, status.st_size)
    if union.quota is not None:
        union.quota.require_file(status, wanted)
    source = union.open_data(node, os.O_RDONLY)
    try:
        copy = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=stage_fd)
        try:
            union.copier.copy(source, copy, status, wanted)
            if wanted < status.st_size:
                os.ftruncate(copy, wanted)
            os.chown(copy, status.st_uid, status.st_gid)
            _copy_xattrs(union, node, source, copy)
            os.chmod(copy, stat.S_IMODE(status.st_mode))
            if status.st_nlink == 1:
                os.setxattr(copy, markers.INODE, markers.inode_value(node.ino))
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
            if union.data_first is not None and wanted:
                # Else a power cut may leave an empty file in place of one that was never written to.
                union.data_first.wait(copy, wanted)
        except BaseException:
            os.close(copy)
            raise
        return copy
    finally:
        os.close(source)


def _copy_xattrs(union: Union, node: Node, source: int, copy: int) -> None:
    if node.data is None:
        transfer.copy_xattrs(source, copy)
        return
    dir_fd, name = union.place(node)  # the xattrs are not where the data is
    os.fchdir(dir_fd)
    transfer.write_xattrs(transfer.read_xattrs(name), copy)


def _complete(union: Union, node: Node, size: int | None) -> None:
    """Bring in the data of an upper file that had only its metadata copied up, by overlayfs with metacopy=on.

    The mark goes last: as long as it is there, the data is that of the layer.
    """
    union.require_writable()
    status = union.status(node)
    wanted = status.st_size if size is None else min(size, status.st_size)
    if union.quota is not None:
        union.quota.require_file(status, wanted)
    source = union.open_data(node, os.O_RDONLY)
    place, node.data = node.data, None
    try:
        copy = union.open_data(node, os.O_RDWR)
        try:
            _fill(union, source, copy, status, wanted)
        finally:
            os.close(copy)
    except BaseException:
        node.data = place
        raise
    finally:
        os.close(source)
    if node.nodeid:
        union.stale.append(node.nodeid)
    follow_copy_up(union, node)


def _fill(union: Union, source: int, copy: int, status: os.stat_result, wanted: int) -> None:
    capability = transfer.read_xattrs(copy).get(transfer.CAPABILITY)
    union.copier.copy(source, copy, status, wanted)
    os.ftruncate(copy, wanted)
    if capability is not None:
        os.setxattr(copy, transfer.CAPABILITY, capability)  # writing has cleared it
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    if union.data_first is not None and wanted:
        union.data_first.wait(copy, wanted)
    for mark in (whiteouts.METACOPY, whiteouts.REDIRECT):
        transfer.remove_xattr(copy, mark)


def _copy_special(node: Node, status: os.stat_result, source: tuple[int, bytes], copy: tuple[int, bytes]) -> None:
    source_fd, source_name = source
    copy_fd, name = copy
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source_name, dir_fd=source_fd), name, dir_fd=copy_fd)
    else:
        os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=copy_fd)
    os.fchdir(source_fd)
    xattrs = transfer.read_xattrs(source_name)
    transfer.copy_owner_and_mode(status, copy_fd, name)
    os.fchdir(copy_fd)
    transfer.write_xattrs(xattrs, name)
    if status.st_nlink == 1:
        markers.set_inode(copy_fd, name, node.ino)
    transfer.copy_times(status, copy_fd, name)


def _publish(union: Union, stage: Stage, node: Node, name: bytes, *, keeps_inode: bool = False) -> None:
    """Rename a complete copy into place and keep the time of the directory it appears in."""
    parent = node.parent
    parent_fd = union.upper_fd(parent)
    before = os.fstat(parent_fd)
    if keeps_inode:
        mark_impure(union, parent)
    os.rename(name, node.name, src_dir_fd=stage.fd, dst_dir_fd=parent_fd)
    os.utime(parent_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    node.upper, node.lower, node.data = True, None, None
    if union.quota is not None:
        union.quota.add_copy(node, os.stat(node.name, dir_fd=parent_fd, follow_symlinks=False))
    if node.nodeid:
        union.stale.append(node.nodeid)


def mark_impure(union: Union, parent: DirNode) -> None:
    """Note that entries of an upper directory may show another st_ino than their own."""
    if not parent.impure:
        markers.set_marker(union.upper_fd(parent), b".", whiteouts.IMPURE, whiteouts.YES)
        parent.impure = True


def copy_up_tree(union: Union, top: DirNode) -> None:
    """Copy a directory up with all below it and cut it off from the layers, so that it can be moved.

    A redirect xattr, as the kernel's redirect_dir writes, would be quicker; but then the upper directory is no
    layer any more: a tar made of it would miss what the xattr points to.
    """
    pending = [top]
    merged: list[DirNode] = []
    while pending:
        node = pending.pop()
        if node.upper and not node.lowers:
            continue
        copy_up(union, node)
        merged.append(node)
        for name in list_names(union, node):
            entry = existing(union, node, name)
            if isinstance(entry, DirNode):
                pending.append(entry)
            else:
                copy_up(union, entry)
                union.drop(entry)
        if union.descriptors.is_full:
            union.descriptors.trim()
    for node in reversed(merged):
        _cut_off(union, node)


def _cut_off(union: Union, node: DirNode) -> None:
    """Make an upper directory that holds everything opaque; its number stays."""
    fd = union.upper_fd(node)
    before = os.fstat(fd)
    if union.quota is not None:
        union.quota.fresh.setdefault(node, before.st_blocks)  # the marks may take a block
    dir_fd, name = union.place(node)
    markers.set_inode(dir_fd, name, node.ino)
    mark_impure(union, node.parent)
    markers.set_marker(fd, b".", whiteouts.OPAQUE, whiteouts.YES)
    transfer.remove_xattr(fd, whiteouts.REDIRECT)
    node.lowers = ()
    purge_whiteouts(fd)
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    node.listing = None
    union.drop(node)


def purge_whiteouts(fd: int) -> None:
    """Remove the whiteouts of a directory below which nothing is left to hide."""
    os.lseek(fd, 0, os.SEEK_SET)  # see `listing`
    with os.scandir(fd) as entries:
        stale = [
            os.fsencode(entry.name)
            for entry in entries
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
            and whiteouts.is_whiteout(entry.stat(follow_symlinks=False))
        ]
    for name in stale:
        os.unlink(name, dir_fd=fd)
