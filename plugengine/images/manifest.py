"""Read and write manifests and indexes; see OCI image-spec, manifest.md and image-index.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from plugengine.errors import ImageError
from plugengine.images.config import canonical, load_object
from plugengine.images.digest import is_digest
from plugengine.kernel.machine import architecture

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYERS = frozenset(
    {
        OCI_LAYER,
        OCI_LAYER + "+gzip",
        OCI_LAYER + "+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)


class Descriptor(Struct, frozen=True, kw_only=True):
    """What points to a blob."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] | None = None


class Manifest(Struct, frozen=True, kw_only=True):
    """One image's parts."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def parse_manifest(content: bytes, media_type: str, what: str) -> Manifest:
    """Parse a manifest.

    Raises:
        ImageError: It is not what its media type says, or could be read in two ways (CVE-2021-41190).
    """
    data = load_object(content, what)
    _check_type(data, media_type, what, forbidden=("manifests", "fsLayers"))
    config = _descriptor(data.get("config"), f"{what}: config")
    if config.media_type not in CONFIGS:
        raise ImageError(f"{what}: not a container image but {config.media_type}")
    layers = data.get("layers")
    if not isinstance(layers, list):
        raise ImageError(f"{what}: layers is not a list")
    parsed = tuple(_descriptor(layer, f"{what}: layer {number}") for number, layer in enumerate(layers))
    for layer in parsed:
        if layer.media_type not in LAYERS:
            raise ImageError(f"{what}: layer {layer.digest}: unknown kind {layer.media_type}")
    return Manifest(config=config, layers=parsed)


def parse_index(content: bytes, media_type: str, what: str) -> tuple[Descriptor, ...]:
    """Parse an index. Raises: ImageError, as `parse_manifest`."""
    data = load_object(content, what)
    _check_type(data, media_type, what, forbidden=("config", "layers", "fsLayers"))
    manifests = data.get("manifests")
    if not isinstance(manifests, list):
        raise ImageError(f"{what}: manifests is not a list")
    return tuple(_descriptor(entry, f"{what}: manifest {number}") for number, entry in enumerate(manifests))


def choose_platform(candidates: Sequence[Descriptor], what: str) -> Descriptor:
    """Choose the manifest for this machine; one that names no platform is taken if it is alone.

    Raises:
        ImageError: There is none; says what there is.
    """
    wanted = ("linux", architecture())
    images = [one for one in candidates if _platform(one) != ("unknown", "unknown")]  # those are attestations
    fitting = [one for one in images if _platform(one) == wanted]
    if fitting:
        return fitting[0]
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    there = ", ".join(sorted({"/".join(_platform(one)) for one in images})) or "nothing"
    raise ImageError(f"{what}: holds no image for {'/'.join(wanted)}, only {there}")


def make_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """Return an OCI manifest; the same arguments give the same bytes."""
    return canonical(
        {
            "config": _encode(config),
            "layers": [_encode(layer) for layer in layers],
            "mediaType": OCI_MANIFEST,
            "schemaVersion": 2,
        }
    )


def _encode(descriptor: Descriptor) -> dict[str, Any]:
    return {"digest": descriptor.digest, "mediaType": descriptor.media_type, "size": descriptor.size}


def _check_type(data: Mapping[str, Any], media_type: str, what: str, *, forbidden: Sequence[str]) -> None:
    said = data.get("mediaType", media_type)
    if said != media_type:
        raise ImageError(f"{what}: says it is {said!r}, but was announced as {media_type!r}")
    if data.get("schemaVersion") != 2:
        raise ImageError(f"{what}: schema version {data.get('schemaVersion')!r} is not supported, only 2")
    for name in forbidden:
        if name in data:
            raise ImageError(f"{what}: ambiguous, has {name!r}, which does not belong in {media_type}")


def _descriptor(data: Any, what: str) -> Descriptor:
    if not isinstance(data, dict):
        raise ImageError(f"{what}: not an object")
    size, media_type = data.get("size"), data.get("mediaType")
    if not is_digest(data.get("digest")):
        raise ImageError(f"{what}: digest {data.get('digest')!r} is not sha256 and 64 hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ImageError(f"{what}: size {size!r} is not a number of bytes")
    if not isinstance(media_type, str):
        raise ImageError(f"{what}: has no media type")
    annotations, platform = data.get("annotations"), data.get("platform")
    annotations = {} if annotations is None else annotations
    if not isinstance(annotations, dict) or not (platform is None or isinstance(platform, dict)):
        raise ImageError(f"{what}: annotations or platform is not an object")
    return Descriptor(
        media_type=media_type,
        digest=data["digest"],
        size=size,
        annotations={key: value for key, value in annotations.items() if isinstance(value, str)},
        platform=platform,
    )


def _platform(descriptor: Descriptor) -> tuple[str, str]:
    platform = descriptor.platform or {}
    return str(platform.get("os", "?")), str(platform.get("architecture", "?"))
