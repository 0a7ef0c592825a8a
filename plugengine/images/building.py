"""Add an image whose one layer is written by a function."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from plugengine.images.catalog import Complete, LayerSizes
from plugengine.images.config import make_config
from plugengine.images.digest import digest_of
from plugengine.images.layers.apply import Applied
from plugengine.images.layers.diff import diff_layer
from plugengine.images.manifest import OCI_CONFIG, OCI_LAYER, Descriptor, make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from plugengine.images.store import ImageStore
    from plugengine.model import HostPath
    from plugengine.spec import Image

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
    return add_image(store, content, Applied(diff_id, size, tar_size), [name] if name else [])


def add_image(store: ImageStore, config: bytes, layer: Applied, names: Sequence[str]) -> Image:
    """Add the blobs and rows of an image of one layer, which is in the store, under a manifest of our own."""
    complete = Complete(
        id=store.files.add_blob(config),
        manifest_digest=store.files.add_blob(own_manifest(config, [layer.diff_id], [layer.tar_bytes])),
        config=config,
        diff_ids=(layer.diff_id,),
        layers={layer.diff_id: LayerSizes(files=layer.size_bytes, tar=layer.tar_bytes)},
        original=False,
    )
    return store.commit(complete, names)


def own_manifest(config: bytes, diff_ids: Sequence[str], tar_sizes: Sequence[int]) -> bytes:
    """Return the manifest of an image that came without one: its layers as plain tars."""
    layers = [
        Descriptor(media_type=OCI_LAYER, digest=diff_id, size=size)
        for diff_id, size in zip(diff_ids, tar_sizes, strict=True)
    ]
    return make_manifest(Descriptor(media_type=OCI_CONFIG, digest=digest_of(config), size=len(config)), layers)


def timestamp(time_ns: int) -> str:
    """Return a time as RFC 3339, to the second."""
    return datetime.fromtimestamp(time_ns // _NS_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
