"""Add an image whose one layer is written by a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plugengine.images.catalog import Complete
from plugengine.images.config import make_config
from plugengine.images.diff import diff_layer
from plugengine.images.manifest import OCI_CONFIG, OCI_LAYER, Descriptor, make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from plugengine.container import Image
    from plugengine.images.store import ImageStore
    from plugengine.model import HostPath

_NS_PER_SECOND = 1_000_000_000


def add_built(
    store: ImageStore,
    build: Callable[[HostPath], int],
    *,
    config: Mapping[str, Any],
    created_ns: int,
    created_by: str,
    name: str | None,
) -> Image:
    """See `ImageStore.add_built`."""
    with store.files.scratch() as work:
        layer = work.directory("layer")
        size = build(layer)
        diff_id, tar_size = diff_layer(layer)
        if not store.files.has_layer(diff_id):
            store.files.add_layer(layer, diff_id)
    content = make_config(diff_ids=[diff_id], created=timestamp(created_ns), created_by=created_by, config=config)
    return add_image(store, content, [diff_id], [tar_size], {diff_id: size}, [name] if name else [])


def add_image(
    store: ImageStore,
    config: bytes,
    diff_ids: Sequence[str],
    tar_sizes: Sequence[int],
    layer_sizes: Mapping[str, int],
    names: Sequence[str],
) -> Image:
    """Add the blobs and rows of an image whose layers are in the store, under a manifest of our own.

    Args:
        store: The store.
        config: The config; its digest is the image's id.
        diff_ids: The layers, lowest first.
        tar_sizes: The sizes of their uncompressed tars.
        layer_sizes: Their unpacked sizes.
        names: Names the image gets.
    """
    image_id = store.files.add_blob(config)
    layers = [
        Descriptor(media_type=OCI_LAYER, digest=diff_id, size=size)
        for diff_id, size in zip(diff_ids, tar_sizes, strict=True)
    ]
    manifest = make_manifest(Descriptor(media_type=OCI_CONFIG, digest=image_id, size=len(config)), layers)
    complete = Complete(
        id=image_id,
        manifest_digest=store.files.add_blob(manifest),
        config=config,
        diff_ids=tuple(diff_ids),
        layer_sizes=layer_sizes,
        original=False,
    )
    return store.commit(complete, names)


def timestamp(time_ns: int) -> str:
    """Return a time as RFC 3339, to the second."""
    return datetime.fromtimestamp(time_ns // _NS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
