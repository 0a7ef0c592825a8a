"""What libfuse's path operations do to the names and attributes of a union; open files are in `path_files`."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from plugengine_fuse_union import attributes, create, remove, xattrs
from plugengine_fuse_union.errors import refused
from plugengine_fuse_union.lookup import child
from plugengine_fuse_union.path_files import PathFiles
from plugengine_fuse_union.paths import is_hiding_name
from plugengine_fuse_union.rename import rename
from plugengine_fuse_union.replies import links

if TYPE_CHECKING:
    from plugengine_fuse_union.nodes import Node

# linux/stat.h has them in tv_nsec; libfuse sets tv_sec to 0, and fusepy adds the two.
_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_ACL_PREFIX: Final = "system.posix_acl_"


class PathOperations(PathFiles):
    """The operations fusepy looks for by name; paths come as Latin-1, which keeps every byte."""

    # Struct fuse_operations of libfuse 2.9: no paths where there is a handle, and times may be left out.
    flag_nullpath_ok = 1
    flag_nopath = 1
    flag_utime_omit_ok = 1
    use_ns = True

    def getattr(self, path: str | None, fi: Any = None) -> dict[str, int]:
        """Return the attributes of a path or of an open file."""
        if fi:
            node = self.opened_node(fi)
            return self._shown(node, self.union.status(node))
        return self._shown(*self.paths.find(_bytes(path)))

    def _shown(self, node: Node, status: os.stat_result) -> dict[str, int]:
        uid, gid = status.st_uid, status.st_gid
        if self.union.owners is not None:
            uid, gid = self.union.owners.to_host(uid, gid)
        return {
            "st_ino": node.ino,
            "st_mode": status.st_mode,
            # libfuse counts the hidden name itself, fuse_lib_getattr() of its lib/fuse.c
            "st_nlink": links(node, status) + self.paths.is_hidden(node),
            "st_uid": uid,
            "st_gid": gid,
            "st_rdev": status.st_rdev,
            "st_size": status.st_size,
            "st_blksize": status.st_blksize,
            "st_blocks": status.st_blocks,
            "st_atime": status.st_atime_ns,
            "st_mtime": status.st_mtime_ns,
            "st_ctime": status.st_ctime_ns,
        }

    def readlink(self, path: str) -> str:
        """Return a symlink's target."""
        node = self.paths.node(_bytes(path))
        if node.fd >= 0:
            return os.readlink(b"", dir_fd=node.fd).decode("latin-1")
        dir_fd, name = self.union.place(node)
        return os.readlink(name, dir_fd=dir_fd).decode("latin-1")

    def statfs(self, _path: str) -> dict[str, int]:
        """Return the size of the filesystem that can fill up."""
        root = self.union.root
        status = os.statvfs(root.fd if root.upper else root.lowers[0].fd)
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail")
        return {name: getattr(status, name) for name in (*names, "f_namemax")}

    def mknod(self, path: str, mode: int, device: int) -> None:
        """Make a special file."""
        parent, name = self.paths.parent(_bytes(path))
        self.paths.touch(create.mknod(self.union, parent, name, mode, device, self.caller())[0])

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory."""
        parent, name = self.paths.parent(_bytes(path))
        self.paths.touch(create.mkdir(self.union, parent, name, mode, self.caller())[0])

    def symlink(self, path: str, target: str) -> None:
        """Make a symlink."""
        parent, name = self.paths.parent(_bytes(path))
        self.paths.touch(create.symlink(self.union, parent, name, _bytes(target), self.caller())[0])

    def link(self, path: str, source: str) -> None:
        """Give a file one more name."""
        node = self.paths.node(_bytes(source))
        parent, name = self.paths.parent(_bytes(path))
        create.link(self.union, node, parent, name)

    def unlink(self, path: str) -> None:
        """Remove a name; one libfuse hid is gone already, and it does not look at the answer."""
        parent, name = self.paths.parent(_bytes(path))
        remove.unlink(self.union, parent, name)

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        parent, name = self.paths.parent(_bytes(path))
        remove.rmdir(self.union, parent, name)
        self.paths.let_removed_go()

    def rename(self, old: str, new: str) -> None:
        """Move a name; the flags of renameat2(2) do not come here."""
        old_parent, old_name = self.paths.parent(_bytes(old))
        new_parent, new_name = self.paths.parent(_bytes(new))
        if is_hiding_name(new_name) and new_parent is old_parent:
            node = child(self.union, old_parent, old_name)
            if node is not None and node.opened is not None:
                self._hide(node, old, new_name)
                return
        rename(self.union, old_parent, old_name, new_parent, new_name)
        self.paths.let_removed_go()

    def _hide(self, node: Node, path: str, name: bytes) -> None:
        """Remove a name at once where libfuse would keep the open file under another, in everybody's sight."""
        self.paths.hide(name, node)
        try:
            self.unlink(path)
        except BaseException:
            self.paths.reveal(node)
            raise

    def chmod(self, path: str, mode: int) -> None:
        """Change the permission bits."""
        attributes.set_mode(self.union, self.paths.node(_bytes(path)), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner."""
        attributes.set_owner(self.union, self.paths.node(_bytes(path)), uid, gid)

    def truncate(self, path: str | None, size: int, fi: Any = None) -> None:
        """Change the size; the kernel asks for setuid to be cleared on its own."""
        node = self.opened_node(fi) if fi else self.paths.node(_bytes(path))
        attributes.set_size(self.union, node, size, self.requester(capable=True))

    def utimens(self, path: str, times: tuple[int, int] | None) -> None:
        """Set times."""
        now = attributes.now_ns()
        chosen = [None if time == _UTIME_OMIT else now if time == _UTIME_NOW else time for time in times or (now, now)]
        attributes.set_times(self.union, self.paths.node(_bytes(path)), chosen[0], chosen[1])

    def getxattr(self, path: str, name: str) -> bytes:
        """Return a value."""
        _refuse_acl(name)
        return xattrs.get(self.union, self.paths.node(_bytes(path)), _text(name))

    def listxattr(self, path: str) -> list[str]:
        """Return the names."""
        names = xattrs.list_names(self.union, self.paths.node(_bytes(path)))
        return [os.fsencode(name).decode("latin-1") for name in names if not name.startswith(_ACL_PREFIX)]

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set a value."""
        _refuse_acl(name)
        xattrs.set_value(self.union, self.paths.node(_bytes(path)), _text(name), value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Remove a value."""
        _refuse_acl(name)
        xattrs.remove(self.union, self.paths.node(_bytes(path)), _text(name))


def _bytes(path: str | None) -> bytes:
    if path is None:
        raise refused(errno.ENOENT)  # libfuse had no path to give
    return path.encode("latin-1")


def _text(name: str) -> str:
    return os.fsdecode(name.encode("latin-1"))


def _refuse_acl(name: str) -> None:
    # The kernel would not heed one: an ACL's mask in the mode would then give the group more than the ACL does.
    if name.startswith(_ACL_PREFIX):
        raise refused(errno.EOPNOTSUPP)
