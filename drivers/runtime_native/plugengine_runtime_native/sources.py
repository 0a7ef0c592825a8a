"""Open what the child needs of the host, in the parent: the child may see less, and must not walk host paths."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from typing import TYPE_CHECKING, Final, NoReturn

from plugengine.errors import DriverError, NotFoundError
from plugengine.kernel.files import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from plugengine.kernel.mount import (
    MOUNT_ATTR_IDMAP,
    MS_PRIVATE,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    mount_setattr,
    open_tree,
)
from plugengine.kernel.process import CLONE_NEWNS, clone3, setns
from plugengine.model import UserMap
from plugengine.mounts import user_namespace

from plugengine_runtime_native.inside import InsidePlan
from plugengine_runtime_native.steps import AttachRoot, BindNodes, MountTree

if TYPE_CHECKING:
    from typing import Self

_IN_ANOTHER_CONTAINER: Final = re.compile(rb"/proc/([0-9]+)/root(/.*)")
_DESCRIPTOR: Final = struct.Struct("i")
_ERROR_BYTES: Final = 256


class Sources:
    """Detached mounts for the steps of one plan, by index of the step.

    The descriptors are close-on-exec and inherited by the child; the parent closes them once the child is born.
    A detached mount goes away with its last descriptor.
    """

    def __init__(self) -> None:
        self.trees: dict[int, int] = {}
        self.nodes: dict[int, list[int]] = {}

    def descriptors(self) -> list[int]:
        """Return every descriptor."""
        return [*self.trees.values(), *(fd for nodes in self.nodes.values() for fd in nodes)]

    def close(self) -> None:
        """Close them all; a second time does nothing."""
        for fd in self.descriptors():
            os.close(fd)
        self.trees.clear()
        self.nodes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def open_sources(plan: InsidePlan) -> Sources:
    """Open the host's side of a plan; called in the monitor, before the child is cloned.

    Returns:
        What `child.become_init` wants; use it as a context manager around the clone.

    Raises:
        NotFoundError: A directory, file or device of the host is not there.
        DriverError: The kernel refused; nothing is left open.
    """
    sources = Sources()
    maps = _Maps()
    try:
        for index, step in enumerate(plan.steps):
            if isinstance(step, AttachRoot):
                sources.trees[index] = _tree(step.source, propagation=MS_PRIVATE)
            elif isinstance(step, MountTree):
                sources.trees[index] = _bind(step, maps)
            elif isinstance(step, BindNodes):
                nodes = sources.nodes[index] = []
                nodes.extend(_tree(host, propagation=MS_PRIVATE) for host, _guest in step.nodes)
    except BaseException:
        sources.close()
        raise
    finally:
        maps.close()
    return sources


class _Maps:
    """The user namespaces that id-mapped mounts take their maps from, each made when the first mount needs it."""

    def __init__(self) -> None:
        self._namespaces: dict[UserMap, int] = {}

    def apply(self, tree: int, user_map: UserMap, source: bytes) -> None:
        """Map a detached mount."""
        if user_map not in self._namespaces:
            self._namespaces[user_map] = user_namespace(user_map)
        try:
            mount_setattr(tree, b"", AT_EMPTY_PATH, attr_set=MOUNT_ATTR_IDMAP, userns_fd=self._namespaces[user_map])
        except OSError as exc:
            raise DriverError(
                f"bind {os.fsdecode(source)}: map its owners: {exc.strerror}",
                hint="its filesystem has no id-mapped mounts; put --root on ext4, xfs or btrfs, or use --userns host",
            ) from exc

    def close(self) -> None:
        """Close the namespaces' descriptors; the mounts keep the maps."""
        for fd in self._namespaces.values():
            os.close(fd)


def _bind(step: MountTree, maps: _Maps) -> int:
    found = _IN_ANOTHER_CONTAINER.match(step.source)
    if found is not None:
        return _foreign_tree(int(found[1]), found[2], step)
    if step.subpath:
        tree = _tree_of_volume(step)
    else:
        tree = _tree(step.source, attributes=step.attributes, propagation=step.propagation, recursive=step.recursive)
    if step.user_map is not None:
        try:
            maps.apply(tree, step.user_map, step.source)
        except BaseException:
            os.close(tree)
            raise
    return tree


def _tree(source: bytes, *, attributes: int = 0, propagation: int = 0, recursive: bool = False) -> int:
    try:
        return _clone_tree(AT_FDCWD, source, attributes=attributes, propagation=propagation, recursive=recursive)
    except OSError as exc:
        name = os.fsdecode(source)
        if isinstance(exc, FileNotFoundError):
            raise NotFoundError(f"bind {name}: no such file or directory on the host") from exc
        raise DriverError(f"bind {name}: {exc.strerror}") from exc


def _tree_of_volume(step: MountTree) -> int:
    """Copy the mount of a directory or file in a volume; what was opened below the volume is what gets mounted.

    Whoever writes the volume may put links there and swap them while we look, so no path is made of it that would be
    followed once more: kubernetes CVE-2017-1002101, CVE-2021-25741.
    """
    what = f"volume {os.fsdecode(step.volume)}: path {os.fsdecode(step.subpath)} in it"
    try:
        top = os.open(step.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags, resolve = os.O_PATH | os.O_CLOEXEC, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
            part = openat2(top, step.subpath, flags, resolve=resolve)
        finally:
            os.close(top)
        try:
            return _clone_tree(
                part, b"", attributes=step.attributes, propagation=step.propagation, recursive=step.recursive
            )
        finally:
            os.close(part)
    except OSError as exc:
        reason = "leads out of the volume" if exc.errno == errno.EXDEV else os.strerror(exc.errno or 0).lower()
        raise NotFoundError(f"{what}: {reason}") from exc


def _clone_tree(directory: int, path: bytes, *, attributes: int, propagation: int, recursive: bool) -> int:
    depth = AT_RECURSIVE if recursive else 0
    fd = open_tree(directory, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth)
    try:
        mount_setattr(fd, b"", AT_EMPTY_PATH | depth, attr_set=attributes, propagation=propagation)
    except OSError:
        os.close(fd)
        raise
    return fd


def _foreign_tree(pid: int, path: bytes, step: MountTree) -> int:
    """Copy a mount of another container, which only a process inside its mount namespace may do: EINVAL."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            child, _pidfd = clone3(0, pidfd=False)
            if child == 0:
                _send_tree(theirs, pid, path)
        data, ancillary, _flags, _address = ours.recvmsg(
            _ERROR_BYTES, socket.CMSG_SPACE(_DESCRIPTOR.size), socket.MSG_CMSG_CLOEXEC
        )
    os.waitpid(child, 0)
    if not ancillary:
        raise DriverError(f"bind {os.fsdecode(step.source)}: {os.fsdecode(data) or 'the process is gone'}")
    fd: int = _DESCRIPTOR.unpack_from(ancillary[0][2])[0]
    mount_setattr(fd, b"", AT_EMPTY_PATH, attr_set=step.attributes, propagation=step.propagation)
    return fd


def _send_tree(connection: socket.socket, pid: int, path: bytes) -> NoReturn:
    """Enter the mount namespace, copy the mount, send its descriptor; links there are the other container's doing."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        setns(namespace, CLONE_NEWNS)
        root = os.open(b"/", os.O_PATH | os.O_CLOEXEC)
        place = open_in_root(root, path, os.O_PATH, resolve=RESOLVE_NO_SYMLINKS)
        fd = open_tree(place, b"", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        connection.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(fd))])
    except OSError as exc:
        connection.send(os.fsencode(str(exc.strerror)))
    finally:
        os._exit(0)
