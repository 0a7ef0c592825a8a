"""The files of the store: blobs by digest, and the layers unpacked once."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from plugengine.images.digest import digest_of, hex_of, is_digest
from plugengine.model import HostPath
from plugengine.state.locations import Locations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plugengine.images.scratch import Scratch


class StoreFiles:
    """Directories below the engine's root; a name in `blobs` or `layers` means that the content is complete."""

    def __init__(self, root: HostPath) -> None:
        self.root = root
        self.blobs: HostPath = HostPath(f"{root}/blobs/sha256")
        self.layers: HostPath = HostPath(f"{root}/layers")
        self.tmp: HostPath = HostPath(f"{root}/tmp")  # noqa: S108 - below the root
        self.sources: HostPath = HostPath(f"{root}/sources")  # what images made on demand were made from

    def ensure(self) -> None:
        """Make the directories; what holds image content is closed to others (setuid programs)."""
        Locations(self.root, self.root).ensure_root()
        for path in (self.blobs, self.sources):
            os.makedirs(path, 0o700, exist_ok=True)

    def scratch(self) -> Scratch:
        """Return a place for work in progress, on the same filesystem."""
        from plugengine.images.scratch import Scratch

        return Scratch(self.tmp)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the store while layers are added that no image names yet; many may hold it at once."""
        self.ensure()
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Try to be alone with the store; False when somebody adds to it just now."""
        self.ensure()
        fd = self._open_lock()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def note_pending_removal(self) -> None:
        """Leave word that something is to be removed as soon as nobody adds any more."""
        with suppress(OSError):  # on a full disk: `pe system check --repair` finds it all the same
            os.close(os.open(self._pending, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def removal_is_pending(self) -> bool:
        """Tell whether there is such word."""
        return os.path.exists(self._pending)

    def clear_pending_removal(self) -> None:
        """Everything was removed."""
        with suppress(FileNotFoundError):
            os.unlink(self._pending)

    @property
    def _pending(self) -> str:
        return f"{self.layers}/.pending"

    def _open_lock(self) -> int:
        return os.open(f"{self.layers}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    # --- layers ---

    def layer(self, diff_id: str) -> HostPath:
        """Return the directory of a layer, there or not."""
        return HostPath(f"{self.layers}/{hex_of(diff_id, 'layer')}")

    def has_layer(self, diff_id: str) -> bool:
        """Tell whether the layer is unpacked, completely."""
        return os.path.isdir(self.layer(diff_id))

    def add_layer(self, built: HostPath, diff_id: str) -> None:
        """Take over a directory made in a scratch; somebody else's copy of the same layer is as good."""
        from plugengine.images.scratch import place
        from plugengine.kernel.files import syncfs

        fd = os.open(built, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        place(built, self.layer(diff_id))

    def remove_layer(self, diff_id: str) -> None:
        """Remove a layer: out of the store in one step, then file by file."""
        with self.scratch() as work:
            try:
                os.rename(self.layer(diff_id), f"{work.path}/layer")
            except FileNotFoundError:
                return

    def layer_ids(self) -> set[str]:
        """Return the layers that are there."""
        return _digests(self.layers)

    # --- blobs ---

    def blob(self, digest: str) -> HostPath:
        """Return the path of a blob, there or not."""
        return HostPath(f"{self.blobs}/{hex_of(digest, 'blob')}")

    def add_blob(self, content: bytes) -> str:
        """Store some bytes; return their digest."""
        from plugengine.images.scratch import place

        digest = digest_of(content)
        target = self.blob(digest)
        if os.path.exists(target):
            return digest
        with self.scratch() as work:
            source = f"{work.path}/blob"
            write_synced(source, content)
            place(source, target)
        return digest

    def remove_blob(self, digest: str) -> None:
        """Remove a blob; one that is not there counts as removed."""
        with suppress(FileNotFoundError):
            os.unlink(self.blob(digest))

    def blob_digests(self) -> set[str]:
        """Return the blobs that are there."""
        return _digests(self.blobs)


def write_synced(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a new file and make it durable."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def _digests(directory: str) -> set[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return set()
    return {digest for name in names if is_digest(digest := f"sha256:{name}")}
