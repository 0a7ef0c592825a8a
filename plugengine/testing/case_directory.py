"""Prepare where cases run: a directory of the run, on a filesystem made for it if one is asked for."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

from plugengine.errors import NotSupportedError, StateError, UsageError
from plugengine.kernel.loop import loop_attach
from plugengine.kernel.mountinfo import mount_of
from plugengine.model import HostPath
from plugengine.testing.host_state import detach_below
from plugengine.testing.isolation import Ground
from plugengine.trees.remove import remove_tree

DEFAULT_DIRECTORY: Final = HostPath("/var/tmp")  # noqa: S108 - often on a disk, where /tmp is often a tmpfs
IMAGE_BYTES: Final = 2 << 30  # sparse

# The forms of mkfs that ask nothing and say nothing.
_MKFS: Final = {
    "btrfs": ("mkfs.btrfs", "--quiet", "--force"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
FILESYSTEMS: Final = tuple(_MKFS)
_PREFIX: Final = "pe-kit-"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FORGOTTEN_S: Final = 600  # younger ones may not be locked yet


@contextmanager
def prepared(
    directory: HostPath | None, filesystem: str | None, *, private_network: bool, protected: bool = False
) -> Iterator[Ground]:
    """Make the directory of a run and, if asked for, a filesystem that only the cases see; all goes at the end.

    Args:
        directory: Where to make it; None: /var/tmp.
        filesystem: One of FILESYSTEMS, made in a file there and attached to a loop device; None: as it is there.
        private_network: Cases get a network namespace in place of the host's.
        protected: Cases cannot change the lasting filesystems of the host.

    Raises:
        UsageError: The directory cannot be written to, or the filesystem has no name known here.
        NotSupportedError: The program that makes the filesystem is missing or fails.
    """
    with ExitStack() as undo:
        parent = directory or DEFAULT_DIRECTORY
        base, lock = _make_directory(parent)
        undo.callback(os.close, lock)
        undo.callback(_remove, base)
        _sweep(parent)
        if filesystem is None:
            yield Ground(directory=base, private_network=private_network, protected=protected)
            return
        work = HostPath(f"{base}/work")
        os.mkdir(work)
        device = undo.enter_context(loop_filesystem(filesystem, HostPath(f"{base}/image"), IMAGE_BYTES))
        yield Ground(
            directory=work, device=device, fstype=filesystem, private_network=private_network, protected=protected
        )


@contextmanager
def loop_filesystem(filesystem: str, image: HostPath, size_bytes: int, *options: str) -> Iterator[str]:
    """Make a filesystem in a new, sparse file and give its loop device, which goes with the last mount of it.

    Args:
        filesystem: One of FILESYSTEMS.
        image: The file; removing it is the caller's.
        size_bytes: Of the filesystem.
        options: More words for the program that makes it.

    Raises:
        UsageError: The filesystem has no name known here.
        NotSupportedError: The program that makes it is missing or fails, or there is no loop device.
    """
    _make_filesystem(filesystem, image, size_bytes, options)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, device_fd = loop_attach(backing)  # detached when this descriptor and all mounts are gone
    except OSError as exc:
        raise NotSupportedError(f"attach {image} to a loop device: {exc.filename}: {exc.strerror}") from exc
    finally:
        os.close(backing)
    try:
        yield device
    finally:
        os.close(device_fd)


def filesystem_of(directory: HostPath) -> str:
    """Return the type of the filesystem a directory lies on."""
    found = mount_of(directory)
    return found.fstype if found is not None else "unknown"


def _make_directory(parent: HostPath) -> tuple[HostPath, int]:
    """Return a new directory, and a descriptor that keeps it locked while this process or a case of it lives."""
    try:
        made = tempfile.mkdtemp(prefix=_PREFIX, dir=os.path.realpath(parent))
    except OSError as exc:
        raise UsageError(f"--directory {parent}: {str(exc.strerror).lower()}") from exc
    os.chmod(made, 0o711)  # noqa: S103 - mapped users of containers must get through
    lock = os.open(made, _DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return HostPath(made), lock


def _sweep(parent: HostPath) -> None:
    """Remove what runs that were killed have left; anybody may make names in the directory, so all else stays."""
    for name in os.listdir(parent):
        if not name.startswith(_PREFIX):
            continue
        path = HostPath(f"{os.path.realpath(parent)}/{name}")
        try:
            fd = os.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            found = os.fstat(fd)
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _FORGOTTEN_S:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
        except BlockingIOError:  # it is in use
            continue
        finally:
            os.close(fd)


def _remove(base: HostPath) -> None:
    """Remove the directory of a run, whatever a driver has mounted below it where it should not."""
    detach_below(base)
    with suppress(StateError):
        remove_tree(base)


def _make_filesystem(filesystem: str, image: HostPath, size_bytes: int, options: tuple[str, ...]) -> None:
    if filesystem not in _MKFS:
        raise UsageError(f"--filesystem {filesystem}: not one that can be made", hint=f"one of {', '.join(_MKFS)}")
    program, *arguments = _MKFS[filesystem]
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise NotSupportedError(f"make a {filesystem} filesystem: {program} is not installed")
    with open(image, "wb") as stream:
        os.truncate(stream.fileno(), size_bytes)
    done = subprocess.run([found, *arguments, *options, image], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = " ".join((done.stderr or done.stdout).split())
        raise NotSupportedError(f"make a {filesystem} filesystem: {program}: {why}")
