"""Compare the rows about images with the files, both ways, and repair what differs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import DecodeError
from msgspec.json import decode

from plugengine.images import scratch
from plugengine.images.catalog import needed_layers
from plugengine.images.digest import digest_of
from plugengine.model import short_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plugengine.images.store import ImageStore


def check(store: ImageStore, *, repair: bool, kinds: Sequence[str]) -> list[str]:
    """See `ImageStore.check`."""
    with store.files.alone() as alone:
        if not alone:
            # What is not finished yet would look like an orphan.
            if repair:
                store.files.note_pending_removal()
            return []
        lines: list[str] = []
        if "broken" in kinds:
            lines += _broken_images(store, repair=repair)
        if "orphan" in kinds:
            lines += _orphans(store, repair=repair)
            if repair:
                store.files.clear_pending_removal()
        return lines


def _broken_images(store: ImageStore, *, repair: bool) -> Iterator[str]:
    """Rows without files: an image that lacks a layer cannot run, a lost config is still in the database."""
    for image in store.catalog.list():
        name = image.names[0] if image.names else short_id(image.id)
        lost = [one for one in image.diff_ids if not store.files.has_layer(one)]
        if lost:
            yield f"image {name}: layer {short_id(lost[0])} is missing" + (", image removed" if repair else "")
            if repair:
                with store.state.transaction() as cursor:
                    store.catalog.remove(cursor, image.id)
            continue
        if not _blob_is_whole(store, image.id):
            yield f"image {name}: its config is damaged on disk" + (", written again" if repair else "")
            if repair:
                store.files.remove_blob(image.id)
                store.files.add_blob(store.catalog.config(image.id).encode())
        if not _blob_is_whole(store, image.digest):
            yield f"image {name}: its manifest is damaged on disk; it still runs, load it again to repair it"


def _blob_is_whole(store: ImageStore, digest: str) -> bool:
    try:
        with open(store.files.blob(digest), "rb") as file:
            return digest_of(file.read()) == digest
    except FileNotFoundError:
        return False


def _orphans(store: ImageStore, *, repair: bool) -> Iterator[str]:
    """Files without rows, and rows of layers that no image needs."""
    for path in scratch.collect(store.files.tmp, dry_run=not repair):
        yield f"unfinished work {path}" + _removed(repair=repair)
    with store.state.transaction() as cursor:
        needed = needed_layers(cursor)
        known = {row["diff_id"] for row in cursor.execute("SELECT diff_id FROM layers")}
        if repair:
            cursor.executemany("DELETE FROM layers WHERE diff_id = ?", [(one,) for one in known - needed])
    for diff_id in sorted((store.files.layer_ids() | known) - needed):
        yield f"layer {short_id(diff_id)}: belongs to no image" + _removed(repair=repair)
        if repair:
            store.files.remove_layer(diff_id)
    for digest in sorted(store.files.blob_digests() - store.catalog.blobs()):
        yield f"blob {short_id(digest)}: belongs to no image" + _removed(repair=repair)
        if repair:
            store.files.remove_blob(digest)
    yield from _stale_records(store, repair=repair)


def _stale_records(store: ImageStore, *, repair: bool) -> Iterator[str]:
    """What images on demand were made from, when the image is gone."""
    images = {image.id for image in store.catalog.list()}
    for name in sorted(one for one in os.listdir(store.files.sources) if one.endswith(".json")):
        path = f"{store.files.sources}/{name}"
        try:
            with open(path, "rb") as file:
                image_id = decode(file.read()).get("image")
        except (DecodeError, AttributeError):
            image_id = None
        if image_id not in images:
            yield f"record {path}: its image is gone" + _removed(repair=repair)
            if repair:
                os.unlink(path)


def _removed(*, repair: bool) -> str:
    return ", removed" if repair else ""
