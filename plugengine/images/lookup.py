"""Find images by anything but their exact name, and describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import NotFoundError, UsageError
from plugengine.images.digest import PREFIX
from plugengine.images.reference import Reference, is_id_prefix, parse
from plugengine.model import short_id

if TYPE_CHECKING:
    from plugengine.images.catalog import Catalog

_SUGGESTED = 3


def find_id(catalog: Catalog, reference: str) -> str:
    """Return the id of an image by a name in any spelling, a digest, or the beginning of an id.

    Raises:
        NotFoundError: There is none; the hint names similar ones.
        UsageError: The beginning fits several images, or the name is malformed.
    """
    parsed = None if reference.startswith(PREFIX) else _parsed(reference)
    found = _by_reference(catalog, parsed) if parsed else None
    if found is None and is_id_prefix(reference):
        found = _by_id_prefix(catalog, reference.removeprefix(PREFIX))
    if found is not None:
        return found
    if parsed is None and not is_id_prefix(reference):
        parse(reference)  # says what is wrong with it
    raise NotFoundError(f"image {reference}: is not in the store", hint=_similar(catalog, reference))


def _parsed(reference: str) -> Reference | None:
    try:
        return parse(reference)
    except UsageError:
        return None


def _by_reference(catalog: Catalog, reference: Reference) -> str | None:
    if reference.digest is None:
        return catalog.id_named(reference.name)
    for image in catalog.list():
        named = any(_repository(name) == reference.repository for name in image.names)
        if named and reference.digest in (image.digest, image.id):
            return image.id
    return None


def _by_id_prefix(catalog: Catalog, digits: str) -> str | None:
    ids = sorted(catalog.ids_beginning_with(digits)) if digits else []
    if len(ids) > 1:
        shown = " ".join(map(short_id, ids[:_SUGGESTED]))
        raise UsageError(f"image {digits}: fits {len(ids)} images", hint=f"give more digits: {shown}")
    return ids[0] if ids else None


def _repository(name: str) -> str:
    return name.rpartition(":")[0]


def _similar(catalog: Catalog, reference: str) -> str:
    """Suggest names: the same repository with another tag is the commonest slip, then those spelt alike."""
    from difflib import get_close_matches

    names = catalog.all_names()
    wanted = reference.partition("@")[0]
    repositories = {_repository(name) for name in names}
    near = get_close_matches(wanted, names, n=_SUGGESTED)
    for repository in (wanted, _repository(wanted), *get_close_matches(wanted, repositories, n=_SUGGESTED)):
        near += [name for name in names if _repository(name) == repository]
    unique = list(dict.fromkeys(near))[:_SUGGESTED]
    if unique:
        return "did you mean " + " or ".join(unique)
    return "pe load -i, pe import, or an image made of this machine's own files: host:base"
