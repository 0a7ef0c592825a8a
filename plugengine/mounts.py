"""Perform `Mount` values with the new mount API; see fsopen(2), open_tree(2), mount_setattr(2), move_mount(2)."""

from __future__ import annotations

import errno
import os
import signal
from typing import Final

from plugengine.errors import DriverError
from plugengine.kernel import files, mount, process
from plugengine.model import HostPath, IdRange, Mount, UserMap

# include/uapi/linux/mount.h: the per-mount subset of the MS_ flags, and the attribute of each.
_ATTRIBUTES: Final = (
    (mount.MS_RDONLY, mount.MOUNT_ATTR_RDONLY),
    (mount.MS_NOSUID, mount.MOUNT_ATTR_NOSUID),
    (mount.MS_NODEV, mount.MOUNT_ATTR_NODEV),
    (mount.MS_NOEXEC, mount.MOUNT_ATTR_NOEXEC),
    (mount.MS_NOATIME, mount.MOUNT_ATTR_NOATIME),
    (mount.MS_NODIRATIME, mount.MOUNT_ATTR_NODIRATIME),
    (mount.MS_STRICTATIME, mount.MOUNT_ATTR_STRICTATIME),
)

_IN_THE_WAY: Final = (
    (os.ST_NOEXEC, "noexec", "no program of a container could run"),
    (os.ST_NOSUID, "nosuid", "set-user-id programs would not work in containers"),
    (os.ST_NODEV, "nodev", "device files of images would not work in containers"),
    (os.ST_RDONLY, "read-only", "nothing can be written there"),
)


def attributes(flags: int) -> int:
    """Return the MOUNT_ATTR_ bits for MS_ flags."""
    bits = 0
    for ms_flag, attribute in _ATTRIBUTES:
        if flags & ms_flag:
            bits |= attribute
    return bits


def perform(request: Mount) -> None:
    """Mount `request` at its target.

    Raises:
        DriverError: The kernel refused; the message has its reason, nothing is mounted.
    """
    try:
        if any(key == "lowerdir" for key, _value in request.options):
            _filesystem_in_one_call(request)
            return
        fd = _tree(request) if request.fstype == "bind" else _filesystem(request)
        try:
            mount.move_mount(fd, "", files.AT_FDCWD, request.target, mount.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(fd)
    except OSError as exc:
        raise DriverError(f"mount {request.fstype} on {request.target}: {exc.strerror}") from exc


def maps_owners(directory: HostPath, user_map: UserMap) -> bool:
    """Tell whether the filesystem of a directory can be mounted with mapped owners (`Mount.user_map`)."""
    try:
        os.close(_tree(Mount(fstype="bind", source=directory, target=directory, user_map=user_map)))
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS):
            return False
        raise
    return True


def bind_obstacles(root: HostPath) -> list[str]:
    """Return why directories below a root cannot be bound as root filesystems; none: they can. It need not exist yet.

    A bind mount has the flags of the mount it is taken from; see mount(8).
    """
    place: str = root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    flags = os.statvfs(place).f_flag
    return [
        f"{place} is on a filesystem mounted {name}, {why}: mount it without, or put --root elsewhere"
        for flag, name, why in _IN_THE_WAY
        if flags & flag
    ]


def _tree(request: Mount) -> int:
    recursive = files.AT_RECURSIVE if request.flags & mount.MS_REC else 0
    fd = mount.open_tree(files.AT_FDCWD, request.source, mount.OPEN_TREE_CLONE | mount.OPEN_TREE_CLOEXEC | recursive)
    try:
        bits = attributes(request.flags)
        if request.user_map is not None:
            userns = user_namespace(request.user_map)
            try:
                mount.mount_setattr(
                    fd, "", files.AT_EMPTY_PATH | recursive, attr_set=bits | mount.MOUNT_ATTR_IDMAP, userns_fd=userns
                )
            finally:
                os.close(userns)
        elif bits:
            mount.mount_setattr(fd, "", files.AT_EMPTY_PATH | recursive, attr_set=bits)
    except OSError:
        os.close(fd)
        raise
    return fd


def _filesystem(request: Mount) -> int:
    context = mount.fsopen(request.fstype)
    try:
        if request.source:
            mount.fsconfig_set_string(context, "source", request.source)
        for key, value in request.options:
            if value is None:
                mount.fsconfig_set_flag(context, key)
            else:
                mount.fsconfig_set_string(context, key, value)
        mount.fsconfig_create(context)
        return mount.fsmount(context, attr_flags=attributes(request.flags))
    finally:
        os.close(context)


def _filesystem_in_one_call(request: Mount) -> None:
    """Mount with mount(2), whose options may fill a page, while a string of fsconfig(2) ends at 255 bytes.

    Relative names among the options begin in the directory the source names.
    """
    data = ",".join(key if value is None else f"{key}={value}" for key, value in request.options)
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.path.isabs(request.source):
            os.chdir(request.source)
        mount.mount(request.source, request.target, request.fstype, request.flags, data)
    finally:
        os.fchdir(here)
        os.close(here)


def map_lines(ranges: tuple[IdRange, ...]) -> bytes:
    """Return the text for /proc/PID/uid_map or gid_map; see user_namespaces(7)."""
    return b"".join(b"%d %d %d\n" % (each.guest, each.host, each.size) for each in ranges)


def write_maps(pid: int, user_map: UserMap) -> None:
    """Give the user namespace of a process (its first member) its maps."""
    for name, ranges in (("uid_map", user_map.uids), ("gid_map", user_map.gids)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, map_lines(ranges))
        finally:
            os.close(fd)


def user_namespace(user_map: UserMap) -> int:
    """Return a descriptor of a new user namespace with these maps; the caller closes it.

    An id-mapped mount takes its map from a namespace, and a namespace needs a process while it is made.
    """
    gate, ours = os.pipe2(os.O_CLOEXEC)
    try:
        with process.bare_children():
            pid, pidfd = process.clone3(process.CLONE_NEWUSER)
        if pid == 0:
            # Whoever made it may be killed at any moment: the end of the pipe is closed then, and this ends, too.
            try:
                os.close(ours)
                os.read(gate, 1)
            finally:
                os._exit(0)
        try:
            write_maps(pid, user_map)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
    finally:
        os.close(gate)
        os.close(ours)
