"""Read the table of contents of an OCI layout: index.json leads to manifests, these to configs and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import ImageError, UsageError
from plugengine.images.config import load_object
from plugengine.images.digest import digest_of, hex_of
from plugengine.images.manifest import (
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    Descriptor,
    choose_platform,
    parse_index,
    parse_manifest,
)
from plugengine.images.reference import parse
from plugengine.images.sources.archive_index import Found, Part, check_count
from plugengine.images.sources.members import read_small
from plugengine.images.tar.limits import CONFIG_BYTES, MANIFEST_BYTES

if TYPE_CHECKING:
    from plugengine.images.sources.members import Members

_LAYOUT_VERSION = "1.0.0"
_MAX_NESTING = 4
# OCI image-spec, annotations.md; and what containerd, and so docker, adds.
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


def read(members: Members) -> list[Found]:
    """Return the images of the layout: one for each name, or the one for this machine. Raises: ImageError."""
    layout = load_object(read_small(members, "oci-layout", MANIFEST_BYTES), f"{members.what}: oci-layout")
    if layout.get("imageLayoutVersion") != _LAYOUT_VERSION:
        raise ImageError(f"{members.what}: layout version {layout.get('imageLayoutVersion')!r}, not {_LAYOUT_VERSION}")
    content = read_small(members, "index.json", MANIFEST_BYTES)
    what = f"{members.what}: index.json"
    descriptors = parse_index(content, OCI_INDEX, what)
    if not descriptors:
        raise ImageError(f"{what}: names no image")
    check_count(len(descriptors), what)
    groups: dict[str | None, list[Descriptor]] = {}
    for one in descriptors:
        groups.setdefault(_name(one), []).append(one)
    images: dict[str, tuple[Descriptor, list[str]]] = {}
    for name, group in groups.items():
        manifest = _manifest(members, _choose(group, what))
        images.setdefault(manifest.digest, (manifest, []))[1].extend([name] if name else [])
    return [_image(members, manifest, names) for manifest, names in images.values()]


def _choose(group: list[Descriptor], what: str) -> Descriptor:
    return group[0] if len(group) == 1 else choose_platform(group, what)


def _name(descriptor: Descriptor) -> str | None:
    """Return the image's name; a mere tag such as "latest" or "1.2" is none, as nothing says of what."""
    full, ref = descriptor.annotations.get(_FULL_NAME), descriptor.annotations.get(_REF_NAME)
    for name in (full, ref):
        if name and (name is full or ":" in name or "/" in name or not _is_tag(name)):
            return name
    return None


def _is_tag(name: str) -> bool:
    try:
        parse(name)
    except UsageError:
        return True
    return name == "latest" or name[0].isdigit()


def _manifest(members: Members, descriptor: Descriptor, depth: int = 0) -> Descriptor:
    """Follow indexes to the manifest for this machine."""
    what = f"{members.what}: {descriptor.digest}"
    if descriptor.media_type in MANIFESTS:
        return descriptor
    if descriptor.media_type not in INDEXES:
        raise ImageError(f"{what}: neither manifest nor index but {descriptor.media_type}")
    if depth >= _MAX_NESTING:
        raise ImageError(f"{what}: indexes nested too deep")
    content = _blob(members, descriptor, MANIFEST_BYTES)
    return _manifest(members, choose_platform(parse_index(content, descriptor.media_type, what), what), depth + 1)


def _image(members: Members, descriptor: Descriptor, names: list[str]) -> Found:
    content = _blob(members, descriptor, MANIFEST_BYTES)
    manifest = parse_manifest(content, descriptor.media_type, f"{members.what}: {descriptor.digest}")
    config = _blob(members, manifest.config, CONFIG_BYTES)
    parts = tuple(Part(name=_path(layer), digest=layer.digest, size=layer.size) for layer in manifest.layers)
    for part in parts:
        if not members.has(part.name):
            raise ImageError(f"{members.what}: {part.name} is missing")
    return Found(config=config, layers=parts, names=tuple(names), manifest=content)


def _blob(members: Members, descriptor: Descriptor, limit: int) -> bytes:
    """Return a small blob, its size and digest verified."""
    content = read_small(members, _path(descriptor), limit)
    if len(content) != descriptor.size:
        raise ImageError(f"{members.what}: blob {descriptor.digest}: has {len(content)} bytes, not {descriptor.size}")
    if digest_of(content) != descriptor.digest:
        raise ImageError(f"{members.what}: blob {descriptor.digest}: its digest is {digest_of(content)}")
    return content


def _path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{hex_of(descriptor.digest)}"
