"""Find images by anything but their exact name, and describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.json import decode

from plugengine.errors import NotFoundError, UsageError
from plugengine.images.digest import short
from plugengine.images.reference import Reference, is_id_prefix, parse

if TYPE_CHECKING:
    from typing import Any

    from plugengine.container import Image
    from plugengine.images.catalog import Catalog

_NEAR_MISSES = 3


def find(catalog: Catalog, reference: str) -> Image:
    """Return an image by a name in any spelling, a digest, or the beginning of an id.

    Raises:
        NotFoundError: There is none; the hint names similar ones.
        UsageError: The beginning fits several images, or the name is malformed.
    """
    parsed = None if reference.startswith("sha256:") else _parsed(reference)
    found = _by_reference(catalog, parsed) if parsed else None
    if found is None and is_id_prefix(reference):
        found = _by_id_prefix(catalog, reference.removeprefix("sha256:"))
    if found is not None:
        return found
    if parsed is None and not is_id_prefix(reference):
        parse(reference)  # says what is wrong with it
    raise NotFoundError(f"image {reference}: is not in the store", hint=_similar(catalog, reference))


def inspect(catalog: Catalog, image: Image) -> dict[str, Any]:
    """Return the description of an image in the words of `docker image inspect`."""
    data: dict[str, Any] = decode(catalog.config(image.id))
    repositories = sorted({name.rpartition(":")[0] for name in image.names})
    return {
        "Id": image.id,
        "RepoTags": list(image.names),
        "RepoDigests": [f"{repository}@{image.digest}" for repository in repositories],
        "Comment": str(data.get("comment") or ""),
        "Created": image.created,
        "Author": str(data.get("author") or ""),
        "Config": data.get("config") or {},
        "Architecture": image.architecture,
        "Variant": str(data.get("variant") or ""),
        "Os": image.os,
        "Size": image.size_bytes,
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "History": data.get("history") or [],
        "LayerDirectories": list(image.layers),
    }


def _parsed(reference: str) -> Reference | None:
    try:
        return parse(reference)
    except UsageError:
        return None


def _by_reference(catalog: Catalog, reference: Reference) -> Image | None:
    if reference.digest is None:
        return catalog.by_name(reference.name)
    for image in catalog.list():
        named = any(name.rpartition(":")[0] == reference.repository for name in image.names)
        if named and reference.digest in (image.digest, image.id):
            return catalog.by_id(image.id)
    return None


def _by_id_prefix(catalog: Catalog, digits: str) -> Image | None:
    ids = catalog.ids_beginning_with(digits) if digits else []
    if len(ids) > 1:
        raise UsageError(
            f"image {digits}: fits {len(ids)} images", hint="give more digits: " + " ".join(map(short, sorted(ids)))
        )
    return catalog.by_id(ids[0]) if ids else None


def _similar(catalog: Catalog, reference: str) -> str:
    from difflib import get_close_matches

    names = catalog.all_names()
    shortened = {name.removesuffix(":latest"): name for name in names}
    near = get_close_matches(reference, [*names, *shortened], n=_NEAR_MISSES)
    # Same repository, other tag: the commonest slip.
    near += [name for name in names if name.rpartition(":")[0] == reference.partition(":")[0]]
    unique = list(dict.fromkeys(shortened.get(name, name) for name in near))[:_NEAR_MISSES]
    if unique:
        return "did you mean " + " or ".join(unique)
    return "pe load -i, pe import, or an image made of this machine's own files: host:base"
