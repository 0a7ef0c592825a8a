"""Chains of layers written out as read-only subvolumes, one for each chain, shared by all containers that have it."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import Final

from plugengine.kernel import btrfs
from plugengine.kernel.files import AT_FDCWD, RENAME_NOREPLACE, renameat2, syncfs
from plugengine.model import HostPath
from plugengine.trees.flatten import write_chain
from plugengine.trees.remove import remove_tree

from plugengine_btrfs import subvolumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE: Final = "bases"  # below the directory for what containers share
_TREE: Final = "tree"  # the subvolume
_LAYERS: Final = "layers"  # a file that says of which layers
_UNFINISHED: Final = "."  # begins the name of one that is being written or removed
_KEY_CHARACTERS: Final = 40


@contextmanager
def base(chain: Sequence[HostPath], shared: str) -> Iterator[int]:
    """Give a descriptor of the subvolume that holds what a chain shows, which is made if nobody needed it before.

    Two that need it at once: one writes, the other waits. It gets its name when it is complete and on disk.

    Args:
        chain: Layer directories, lowest first.
        shared: The driver's directory for what containers share.
    """
    os.makedirs(f"{shared}/{_PLACE}", 0o700, exist_ok=True)
    description = "".join(f"{_identity(layer)} {layer}\n" for layer in chain)
    path = f"{shared}/{_PLACE}/{_key(description)}"
    try:
        fd = os.open(f"{path}/{_TREE}", _DIRECTORY)
    except FileNotFoundError:
        collect(shared)  # what it may replace: the image is not what it was
        fd = _written(chain, path, description, shared)
    try:
        yield fd
    finally:
        os.close(fd)


def collect(shared: str) -> list[str]:
    """Remove the subvolumes of chains of which a layer is gone, and unfinished ones; return a line for each."""
    try:
        names = os.listdir(f"{shared}/{_PLACE}")
    except FileNotFoundError:
        return []
    lines = []
    for name in sorted(names):
        path = f"{shared}/{_PLACE}/{name}"
        if not name.startswith(_UNFINISHED):
            if _is_current(path):
                continue
            doomed = f"{shared}/{_PLACE}/{_UNFINISHED}{name}"
            try:
                renameat2(AT_FDCWD, path, AT_FDCWD, doomed, RENAME_NOREPLACE)
            except OSError as exc:
                # Somebody else removes it, or writes it anew, or the remains of a killed process go first.
                if exc.errno not in (errno.ENOENT, errno.EEXIST):
                    raise
                continue
            path = doomed
        if _remove_unlocked(path, shared):
            lines.append(f"subvolume {path}/{_TREE}: the layers it was made of are gone, or it was never finished")
    return lines


def _identity(layer: HostPath) -> str:
    """Return what tells a layer from another that may later have its name."""
    found = os.stat(layer)
    return f"{found.st_ino}:{found.st_ctime_ns}"


def _key(description: str) -> str:
    from hashlib import sha256

    return sha256(os.fsencode(description)).hexdigest()[:_KEY_CHARACTERS]


def _is_current(path: str) -> bool:
    """Tell whether all layers a subvolume was made of are still what they were."""
    try:
        with open(f"{path}/{_LAYERS}", encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.read().splitlines()
        return all(_identity(HostPath(layer)) == identity for identity, _, layer in map(_split, lines))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(" ")


def _written(chain: Sequence[HostPath], path: str, description: str, shared: str) -> int:
    """Write a chain out and return a descriptor of the subvolume; the one who holds the lock of its directory does."""
    unfinished = f"{os.path.dirname(path)}/{_UNFINISHED}{os.path.basename(path)}"
    while True:
        lock = _locked(unfinished)
        try:
            try:
                return os.open(f"{path}/{_TREE}", _DIRECTORY)  # made while we waited
            except FileNotFoundError:
                pass
            if not _is_at(lock, unfinished):
                continue
            _empty(unfinished, shared)  # of one who was killed here
            try:
                _write(chain, unfinished, lock, description)
            except BaseException:
                _empty(unfinished, shared)
                os.rmdir(unfinished)
                raise
            os.rename(unfinished, path)
            return os.open(f"{path}/{_TREE}", _DIRECTORY)
        finally:
            os.close(lock)


def _write(chain: Sequence[HostPath], unfinished: str, directory_fd: int, description: str) -> None:
    btrfs.create_subvolume(directory_fd, _TREE)
    write_chain(chain, f"{unfinished}/{_TREE}")
    with open(f"{unfinished}/{_LAYERS}", "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(description)
    tree = os.open(_TREE, _DIRECTORY, dir_fd=directory_fd)
    try:
        btrfs.set_read_only(tree, read_only=True)
        syncfs(tree)
    finally:
        os.close(tree)


def _empty(directory: str, shared: str) -> None:
    subvolumes.remove(f"{directory}/{_TREE}", shared)
    remove_tree(f"{directory}/{_LAYERS}")


def _locked(directory: str) -> int:
    """Make a directory, if need be, and lock it; the lock ends with its process, however that ends."""
    while True:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        try:
            fd = os.open(directory, _DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_unlocked(directory: str, shared: str) -> bool:
    """Remove the directory of a base unless somebody works in it."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(directory, shared)
        os.rmdir(directory)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
