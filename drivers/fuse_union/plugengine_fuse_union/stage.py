"""The staging directory: what is not complete yet is made here and renamed into place."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from plugengine.kernel.files import RENAME_EXCHANGE, renameat2
from plugengine.trees import remove_at
from plugengine.trees.whiteouts import WHITEOUT_DEVICE, WHITEOUT_MODE

from plugengine_fuse_union import markers
from plugengine_fuse_union.layers import DIRECTORY_FLAGS

# Beside the directories "work" and "index" that the kernel's overlayfs makes, so that both can use one workdir.
_NAME: Final = b"stage"
_WHITEOUT: Final = b"whiteout"
_NEST_MODE: Final = 0o700


class Stage:
    """A directory on the upper's filesystem, emptied when opened."""

    def __init__(self, work: bytes) -> None:
        path = os.path.join(work, _NAME)
        try:
            os.mkdir(path, 0o700)
            fresh = True
        except FileExistsError:
            fresh = False
        self.fd = os.open(path, DIRECTORY_FLAGS)
        self._count = 0
        if not fresh:
            remove_at.empty(self.fd)

    def new_name(self) -> bytes:
        """Return a name that is free."""
        self._count += 1
        return b"%x" % self._count

    def whiteout(self, dir_fd: int, name: bytes) -> None:
        """Make a whiteout where there is no entry yet.

        All whiteouts are links to one inode, as the kernel's overlayfs makes them: quicker than mknod(2), and a
        million of them take one inode.
        """
        try:
            os.link(_WHITEOUT, name, src_dir_fd=self.fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.EMLINK, errno.EXDEV, errno.EPERM}:
                raise
            self._first_whiteout(dir_fd, name)

    def _first_whiteout(self, dir_fd: int, name: bytes) -> None:
        os.mknod(name, WHITEOUT_MODE, WHITEOUT_DEVICE, dir_fd=dir_fd)
        remove_quietly(self.fd, _WHITEOUT)
        try:
            os.link(name, _WHITEOUT, src_dir_fd=dir_fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in {errno.EMLINK, errno.EXDEV, errno.EPERM}:
                raise

    def replace_by_whiteout(self, dir_fd: int, name: bytes, *, directory: bool) -> None:
        """Put a whiteout in place of an entry at once."""
        temporary = self.new_name()
        self.whiteout(self.fd, temporary)
        if directory:
            renameat2(self.fd, temporary, dir_fd, name, RENAME_EXCHANGE)
            remove_at.remove(self.fd, temporary)
        else:
            os.rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=dir_fd)

    def nest_like(self, parent_fd: int, parent: os.stat_result) -> tuple[bytes, int]:
        """Make a directory that passes on to new entries what `parent` would: group and default ACL.

        Returns:
            Its name in the stage and a descriptor; the caller closes and removes both.
        """
        name = self.new_name()
        os.mkdir(name, _NEST_MODE, dir_fd=self.fd)
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=self.fd)
        os.chown(fd, parent.st_uid, parent.st_gid)
        os.chmod(fd, _NEST_MODE | (parent.st_mode & stat.S_ISGID))
        acl = markers.get_marker(parent_fd, b".", "system.posix_acl_default")
        if acl is not None:
            os.setxattr(fd, "system.posix_acl_default", acl)
        return name, fd


def remove_quietly(dir_fd: int, name: bytes) -> None:
    """Unlink an entry; one that is not there counts as removed."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
