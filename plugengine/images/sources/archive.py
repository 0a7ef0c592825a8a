"""Load images from a docker-archive, an OCI archive or an OCI layout directory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.images.building import own_manifest
from plugengine.images.catalog import Complete
from plugengine.images.config import parse_config
from plugengine.images.digest import digest_of, short
from plugengine.images.layers.apply import unpack
from plugengine.images.rootfs import name_of, opened, reporter
from plugengine.images.sources import docker_archive, oci_layout
from plugengine.images.sources.members import DirectoryMembers, open_members
from plugengine.images.tar.compression import Measured, Unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from plugengine.images.scratch import Scratch
    from plugengine.images.sources.archive_index import Found, Part
    from plugengine.images.sources.members import Members
    from plugengine.images.store import ImageStore, Progress
    from plugengine.spec import Image


def load(store: ImageStore, source: str | BinaryIO, *, progress: Progress | None) -> tuple[Image, ...]:
    """See `ImageStore.load`."""
    with store.files.scratch() as work, _members(source, work) as members:
        if members.has("index.json") and members.has("oci-layout"):
            found = oci_layout.read(members)
        elif members.has("manifest.json"):
            found = docker_archive.read(members)
        else:
            raise ImageError(
                f"{members.what}: no image archive: it has neither manifest.json nor index.json",
                hint="a tar of a root filesystem is loaded with pe import",
            )
        # All layers of all images first: either all images get their rows or none.
        ready = [_add_files(store, members, one, work, progress) for one in found]
        return tuple(store.commit(complete, names) for complete, names in ready)


@contextmanager
def _members(source: str | BinaryIO, work: Scratch) -> Iterator[Members]:
    if isinstance(source, str) and os.path.isdir(source):
        fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield DirectoryMembers(fd, source)
        finally:
            os.close(fd)
        return
    with opened(source) as file, open_members(file, name_of(source), work) as members:
        yield members


def _add_files(
    store: ImageStore, members: Members, found: Found, work: Scratch, progress: Progress | None
) -> tuple[Complete, list[str]]:
    image_id = digest_of(found.config)
    what = f"image {found.names[0] if found.names else short(image_id)}"
    diff_ids: list[str] = parse_config(found.config, f"{what}: config")["rootfs"]["diff_ids"]
    if len(diff_ids) != len(found.layers):
        raise ImageError(f"{what}: its config names {len(diff_ids)} layers, its manifest {len(found.layers)}")
    names = [store.checked_name(name) for name in found.names]
    adder = _LayerAdder(store, members, work, progress)
    for number, (diff_id, part) in enumerate(zip(diff_ids, found.layers, strict=True)):
        adder.add(diff_id, part, below=diff_ids[:number])
    manifest = found.manifest
    if manifest is None:
        tar_sizes = [adder.tar_size(diff_id, part) for diff_id, part in zip(diff_ids, found.layers, strict=True)]
        manifest = own_manifest(found.config, diff_ids, tar_sizes)
    complete = Complete(
        id=store.files.add_blob(found.config),
        manifest_digest=store.files.add_blob(manifest),
        config=found.config,
        diff_ids=tuple(diff_ids),
        layer_sizes=adder.sizes,
        original=found.manifest is not None,
    )
    return complete, names


class _LayerAdder:
    """Unpacks the layers of one image that the store does not have yet."""

    def __init__(self, store: ImageStore, members: Members, work: Scratch, progress: Progress | None) -> None:
        self._store = store
        self._members = members
        self._work = work
        self._progress = progress
        self._tar_sizes: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def add(self, diff_id: str, part: Part, *, below: list[str]) -> None:
        what = f"{self._members.what}: layer {short(diff_id)}"
        if part.size is not None and self._members.size(part.name) != part.size:
            raise ImageError(f"{what}: has {self._members.size(part.name)} bytes, not {part.size}")
        known = self._store.catalog.layer_size(diff_id)
        if known is not None:
            self.sizes[diff_id] = known
            return
        directory = self._work.directory(short(diff_id))
        with self._members.open(part.name) as stream:
            stored = Measured(stream, what=what, hashed=part.digest is not None)
            done = unpack(
                stored,
                directory,
                expected=diff_id,
                parents=[self._store.files.layer(one) for one in below],
                what=what,
                progress=reporter(self._progress, f"layer {short(diff_id)}"),
            )
            stored.drain()
        if part.digest is not None and stored.digest != part.digest:
            raise ImageError(f"{what}: its digest is {stored.digest}, not {part.digest}")
        self._store.files.add_layer(directory, diff_id)
        self.sizes[diff_id] = done.size_bytes
        self._tar_sizes[diff_id] = done.tar_bytes

    def tar_size(self, diff_id: str, part: Part) -> int:
        """Return the size of a layer's plain tar, which the manifest states."""
        if diff_id not in self._tar_sizes:
            with self._members.open(part.name) as stream:
                plain = Measured(Unpacked(stream, what=self._members.what), what=self._members.what, hashed=False)
                plain.drain()
            self._tar_sizes[diff_id] = plain.count
        return self._tar_sizes[diff_id]
