"""Load images from a docker-archive, an OCI archive or an OCI layout directory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from plugengine.errors import ImageError
from plugengine.images.building import own_manifest
from plugengine.images.catalog import Complete, LayerSizes
from plugengine.images.config import parse_config
from plugengine.images.digest import digest_of
from plugengine.images.layers.apply import unpack
from plugengine.images.rootfs import name_of, opened, reporter
from plugengine.images.sources import docker_archive, oci_layout
from plugengine.images.sources.members import DirectoryMembers, open_members
from plugengine.images.tar.compression import Measured, Unpacked
from plugengine.model import short_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from plugengine.images.scratch import Scratch
    from plugengine.images.sources.archive_index import Found, Part
    from plugengine.images.sources.members import Members
    from plugengine.images.store import ImageStore, Progress
    from plugengine.model import HostPath
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
        adder = _Adder(store, members, work, progress)
        ready = [adder.add(one) for one in found]
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


class _Adder:
    """Adds the files of an archive's images, each layer once, however many images name it, or how often one does."""

    def __init__(self, store: ImageStore, members: Members, work: Scratch, progress: Progress | None) -> None:
        self._store = store
        self._members = members
        self._work = work
        self._progress = progress
        self._layers: dict[str, LayerSizes] = {}

    def add(self, found: Found) -> tuple[Complete, list[str]]:
        """Add one image; return what gets its row, and its names."""
        image_id = digest_of(found.config)
        what = f"image {found.names[0] if found.names else short_id(image_id)}"
        diff_ids: list[str] = parse_config(found.config, f"{what}: config")["rootfs"]["diff_ids"]
        if len(diff_ids) != len(found.layers):
            raise ImageError(f"{what}: its config names {len(diff_ids)} layers, its manifest {len(found.layers)}")
        names = [self._store.checked_name(name) for name in found.names]
        for number, (diff_id, part) in enumerate(zip(diff_ids, found.layers, strict=True)):
            self._add_layer(diff_id, part, below=diff_ids[:number])
        complete = Complete(
            id=self._store.files.add_blob(found.config),
            manifest_digest=self._store.files.add_blob(found.manifest or self._own_manifest(found, diff_ids)),
            config=found.config,
            diff_ids=tuple(diff_ids),
            layers={diff_id: self._layers[diff_id] for diff_id in diff_ids},
            original=found.manifest is not None,
        )
        return complete, names

    def _add_layer(self, diff_id: str, part: Part, *, below: list[str]) -> None:
        what = f"{self._members.what}: layer {short_id(diff_id)}"
        if part.size is not None and self._members.size(part.name) != part.size:
            raise ImageError(f"{what}: has {self._members.size(part.name)} bytes, not {part.size}")
        known = self._layers.get(diff_id) or self._store.catalog.layer_sizes(diff_id)
        if known is None:
            known = self._unpack(diff_id, part, [self._store.files.layer(one) for one in below], what)
        self._layers[diff_id] = known

    def _unpack(self, diff_id: str, part: Part, parents: list[HostPath], what: str) -> LayerSizes:
        directory = self._work.directory(short_id(diff_id))
        progress = reporter(self._progress, f"layer {short_id(diff_id)}", self._members.size(part.name))
        with self._members.open(part.name) as stream:
            stored = Measured(stream, what=what, hashed=part.digest is not None, progress=progress)
            done = unpack(stored, directory, expected=diff_id, parents=parents, what=what)
            stored.drain()
        if part.digest is not None and stored.digest != part.digest:
            raise ImageError(f"{what}: its digest is {stored.digest}, not {part.digest}")
        self._store.files.add_layer(directory, diff_id)
        return LayerSizes(files=done.size_bytes, tar=done.tar_bytes)

    def _own_manifest(self, found: Found, diff_ids: list[str]) -> bytes:
        """Return a manifest for an image that came without one; it states the size of each layer's plain tar."""
        for diff_id, part in zip(diff_ids, found.layers, strict=True):
            if self._layers[diff_id].tar is None:  # added by an engine that did not note it
                self._layers[diff_id] = LayerSizes(files=self._layers[diff_id].files, tar=self._plain_size(part))
        return own_manifest(found.config, diff_ids, [self._layers[one].tar or 0 for one in diff_ids])

    def _plain_size(self, part: Part) -> int:
        with self._members.open(part.name) as stream:
            plain = Measured(Unpacked(stream, what=self._members.what), what=self._members.what, hashed=False)
            plain.drain()
        return plain.count
