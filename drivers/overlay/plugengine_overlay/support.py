"""What this kernel and these filesystems can do, found out by doing it on mounts that are attached nowhere."""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Final

from plugengine.kernel import files
from plugengine.kernel.mount import (
    MOUNT_ATTR_IDMAP,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    fsconfig_create,
    fsconfig_set_string,
    fsmount,
    fsopen,
    mount_setattr,
    open_tree,
)
from plugengine.model import Host, HostPath, UserMap
from plugengine.trees.remove import remove_tree

# Hold overlayfs' upper directories on every kernel the engine runs on.
_GOOD: Final = frozenset({files.EXT4_SUPER_MAGIC, files.BTRFS_SUPER_MAGIC, files.TMPFS_MAGIC})
_NAMES: Final = {
    files.OVERLAYFS_SUPER_MAGIC: "overlayfs",
    files.NFS_SUPER_MAGIC: "NFS",
    files.FUSE_SUPER_MAGIC: "a FUSE filesystem",
    files.XFS_SUPER_MAGIC: "XFS",
}


def reasons(host: Host) -> list[str]:
    """Return why overlayfs can't be used for this host's root; none: it can."""
    try:
        os.close(fsopen("overlay"))
    except OSError as exc:
        return [_no_overlay(exc)]
    place = _nearest(host.root)
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        magic = files.fstatfs_type(fd)
    finally:
        os.close(fd)
    return [] if magic in _GOOD else _try_overlay(place, _NAMES.get(magic, f"a filesystem of type {magic:#x}"))


@cache
def appends_layers() -> bool:
    """Tell whether the kernel takes layers one by one ("lowerdir+"; Linux 6.8).

    Before 6.5 overlayfs has the old mount interface, where any name of an option is taken until the mount fails; an
    option that does not exist tells the two apart.
    """
    return _takes("lowerdir+", "/") and not _takes("plugengine", "")


def _takes(option: str, value: str) -> bool:
    try:
        context = fsopen("overlay")
    except OSError:
        return False
    try:
        fsconfig_set_string(context, option, value)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(context)


def maps_owners(directory: HostPath, layers: HostPath, user_map: UserMap) -> bool:
    """Tell whether overlayfs can take layers from an id-mapped mount of their filesystem.

    The layers' filesystem must know id-mapped mounts (ext4 does since Linux 5.12, tmpfs since 6.3), and overlayfs
    must (5.19).

    Args:
        directory: Holds two empty directories `upper` and `empty`.
        layers: A directory of the layer store.
        user_map: The map.
    """
    from plugengine.mounts import user_namespace

    if os.stat(directory).st_dev != os.stat(layers).st_dev:
        return False
    userns = user_namespace(user_map)
    try:
        tree = open_tree(files.AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
        try:
            mount_setattr(tree, attr_set=MOUNT_ATTR_IDMAP, userns_fd=userns)
            below = f"/proc/self/fd/{tree}"
            os.close(_detached(("lowerdir", f"{below}/upper:{below}/empty")))
        finally:
            os.close(tree)
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS):
            return False
        raise
    finally:
        os.close(userns)
    return True


def _no_overlay(exc: OSError) -> str:
    if exc.errno == errno.EPERM:
        return "mounting needs CAP_SYS_ADMIN: run as root"
    if exc.errno == errno.ENODEV:
        return "this kernel has no overlayfs: load its module (modprobe overlay) or use another driver"
    return f"overlayfs cannot be opened: {os.strerror(exc.errno or 0).lower()}"


def _nearest(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _detached(*options: tuple[str, str]) -> int:
    """Return a descriptor of an overlay mount that is attached nowhere and goes with the descriptor."""
    context = fsopen("overlay")
    try:
        for key, value in options:
            fsconfig_set_string(context, key, value)
        fsconfig_create(context)
        return fsmount(context)
    finally:
        os.close(context)


def _try_overlay(place: str, name: str) -> list[str]:
    """Mount an overlay there and do in it what needs every feature: replace a directory of a layer."""
    import tempfile

    try:
        base = tempfile.mkdtemp(prefix=".plugengine-probe-", dir=place)
    except OSError as exc:
        return [f"{place}: {os.strerror(exc.errno or 0).lower()}"]
    try:
        for directory in ("lower/d/e", "upper", "work"):
            os.makedirs(f"{base}/{directory}")
        fd = _detached(("lowerdir", f"{base}/lower"), ("upperdir", f"{base}/upper"), ("workdir", f"{base}/work"))
        try:
            os.rmdir("d/e", dir_fd=fd)
            os.rmdir("d", dir_fd=fd)
            os.mkdir("d", dir_fd=fd)
            os.rmdir("d", dir_fd=fd)
        finally:
            os.close(fd)
    except OSError as exc:
        reason = os.strerror(exc.errno or 0).lower()
        return [f"{place} is on {name}, which cannot hold an overlay ({reason}): put --root on another filesystem"]
    finally:
        remove_tree(base)
    return []
