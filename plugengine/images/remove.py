"""Remove names, images, and the layers nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plugengine.errors import ConflictError, NotFoundError, UsageError
from plugengine.images.digest import is_digest
from plugengine.images.reference import parse
from plugengine.model import short_id

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from plugengine.images.store import ImageStore
    from plugengine.spec import Image

_SHOWN_USERS = 3


def remove(store: ImageStore, reference: str, *, force: bool, in_use: Callable[[str], list[str]]) -> list[str]:
    """See `ImageStore.remove`."""
    image = store.catalog.by_id(store.id_of(reference), verify=False)
    if image is None:
        raise NotFoundError(f"image {reference}: was removed just now")
    name = _name_meant(image, reference)
    with store.state.transaction() as cursor:
        # The names are read again: since the look-up another process may have added some.
        rows = cursor.execute("SELECT name FROM refs WHERE image_id = ?", (image.id,)).fetchall()
        names = sorted(row["name"] for row in rows)
        going = _names_to_go(image, name, names, force=force)
        lines = [f"Untagged: {one}" for one in going]
        unneeded: list[str] = []
        if going == names:
            users = in_use(image.id)
            if users and not force:
                raise ConflictError(
                    f"image {reference}: is used by container {', '.join(users[:_SHOWN_USERS])}",
                    hint="remove the container first; with --force the image only loses its names",
                )
            if not users:
                unneeded = store.catalog.remove(cursor, image.id)
                lines += [f"Deleted: {image.id}", *(f"Deleted: {one}" for one in unneeded)]
        _forget_names(cursor, going)
    _remove_files(store, unneeded, (image.id, image.digest))
    return lines


def _name_meant(image: Image, reference: str) -> str | None:
    """Return the name the reference stands for, None when it is an id."""
    if reference in image.names:
        return reference
    if is_digest(reference):
        return None
    try:
        name = parse(reference).name
    except UsageError:
        return None
    return name if name in image.names else None


def _names_to_go(image: Image, name: str | None, names: list[str], *, force: bool) -> list[str]:
    if name is not None:
        return [name] if name in names else []
    if len(names) > 1 and not force:
        raise ConflictError(
            f"image {short_id(image.id)}: has several names: {', '.join(names)}",
            hint="remove it by one of its names, or use --force to remove all of them",
        )
    return names


def _forget_names(cursor: sqlite3.Cursor, names: list[str]) -> None:
    cursor.executemany("DELETE FROM refs WHERE name = ?", [(name,) for name in names])


def _remove_files(store: ImageStore, layers: list[str], blobs: tuple[str, ...]) -> None:
    """Remove files whose rows are gone; while somebody adds an image, that is left to the end of the adding."""
    with store.files.alone() as alone:
        if not alone:
            store.files.note_pending_removal()
            return
        for diff_id in layers:
            if not store.catalog.has_layer(diff_id):
                store.files.remove_layer(diff_id)
        kept = store.catalog.blobs()
        for digest in blobs:
            if digest not in kept:
                store.files.remove_blob(digest)
