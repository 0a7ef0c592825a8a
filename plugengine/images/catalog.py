"""The rows about images: which there are, what they are called, which layers they need."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.json import decode, encode

from plugengine.errors import ImageError
from plugengine.images.config import EPOCH, image_config
from plugengine.spec import Image
from plugengine.trees.whiteouts import OPAQUE, YES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    from plugengine.images.files import StoreFiles
    from plugengine.model import HostPath
    from plugengine.state.state import State

    Strings: TypeAlias = list[str]  # inside the class, `list` is a method

_COLUMNS = "id, manifest_digest, config, diff_ids, size_bytes"


class LayerSizes(Struct, frozen=True, kw_only=True):
    """What is accounted of one layer."""

    files: int  # unpacked
    tar: int | None  # None: not known, an older engine added it


class Complete(Struct, frozen=True, kw_only=True):
    """An image all of whose files are in the store, ready to get its row."""

    id: str
    manifest_digest: str
    config: bytes
    diff_ids: tuple[str, ...]
    layers: Mapping[str, LayerSizes]  # by diff id
    original: bool  # the manifest came with the image, it is not one of our own


class Catalog:
    """Images and names in the state database."""

    def __init__(self, state: State, files: StoreFiles) -> None:
        self._state = state
        self._files = files

    def add(self, image: Complete, names: Iterable[str]) -> Image:
        """Write the rows of an image in one transaction; names that were another image's move here.

        The store is held by `StoreFiles.in_use`, so that rows may have gone since the layers were found or
        added, but no files.
        """
        now = time.time_ns()
        with self._state.transaction() as cursor:
            manifest_digest = self._better_manifest(cursor, image)
            for diff_id, sizes in image.layers.items():
                cursor.execute(
                    "INSERT INTO layers (diff_id, size_bytes, tar_bytes, created_ns) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT (diff_id) DO UPDATE SET tar_bytes = coalesce(tar_bytes, excluded.tar_bytes)",
                    (diff_id, sizes.files, sizes.tar, now),
                )
            size = _total(cursor, image.diff_ids)
            cursor.execute(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "manifest_digest = excluded.manifest_digest",
                (image.id, manifest_digest, image.config.decode(), encode(image.diff_ids).decode(), size, now),
            )
            for name in names:
                self._set_name(cursor, name, image.id)
            # Read before anybody else can remove it again.
            row = cursor.execute(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image.id,)).fetchone()  # noqa: S608
            return self._image(row, self.names(image.id))

    def _better_manifest(self, cursor: sqlite3.Cursor, image: Complete) -> str:
        """One image may come with several manifests; one of our own never replaces another."""
        row = cursor.execute("SELECT manifest_digest FROM images WHERE id = ?", (image.id,)).fetchone()
        if row is None or row["manifest_digest"] == image.manifest_digest:
            return image.manifest_digest
        self._files.note_pending_removal()
        there = os.path.exists(self._files.blob(row["manifest_digest"]))
        return str(row["manifest_digest"]) if there and not image.original else image.manifest_digest

    def set_name(self, name: str, image_id: str) -> None:
        """Give an image one more name."""
        with self._state.transaction() as cursor:
            self._set_name(cursor, name, image_id)

    @staticmethod
    def _set_name(cursor: sqlite3.Cursor, name: str, image_id: str) -> None:
        cursor.execute(
            "INSERT INTO refs VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
            (name, image_id),
        )

    # --- reading ---

    def by_id(self, image_id: str, *, verify: bool = True) -> Image | None:
        """Return the image of exactly this id.

        Raises:
            ImageError: A layer is missing, unless `verify` is off.
        """
        rows = self._state.query(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image_id,))  # noqa: S608
        return self._image(rows[0], self.names(image_id), verify=verify) if rows else None

    def id_named(self, name: str) -> str | None:
        """Return the id of the image of exactly this name:tag."""
        rows = self._state.query("SELECT image_id FROM refs WHERE name = ?", (name,))
        return rows[0]["image_id"] if rows else None

    def ids_beginning_with(self, digits: str) -> Strings:
        """Return the ids that begin with these digits; if there are none, those whose manifest's digest does."""
        between = (f"sha256:{digits}", f"sha256:{digits}g")
        rows = self._state.query("SELECT id FROM images WHERE id >= ? AND id < ?", between)
        if not rows:
            rows = self._state.query(
                "SELECT id FROM images WHERE manifest_digest >= ? AND manifest_digest < ?", between
            )
        return [row["id"] for row in rows]

    def layer_sizes(self, diff_id: str) -> LayerSizes | None:
        """Return the sizes of a layer that is unpacked and accounted for, else None."""
        rows = self._state.query("SELECT size_bytes, tar_bytes FROM layers WHERE diff_id = ?", (diff_id,))
        if not rows or not self._files.has_layer(diff_id):
            return None
        return LayerSizes(files=rows[0]["size_bytes"], tar=rows[0]["tar_bytes"])

    def has_layer(self, diff_id: str) -> bool:
        """Tell whether a layer has its row."""
        return bool(self._state.query("SELECT 1 FROM layers WHERE diff_id = ?", (diff_id,)))

    def names(self, image_id: str) -> tuple[str, ...]:
        """Return an image's names, sorted."""
        rows = self._state.query("SELECT name FROM refs WHERE image_id = ? ORDER BY name", (image_id,))
        return tuple(row["name"] for row in rows)

    def all_names(self) -> Strings:
        """Return every name of every image."""
        return [row["name"] for row in self._state.query("SELECT name FROM refs ORDER BY name")]

    def list(self) -> list[Image]:
        """Return every image, the newest row first."""
        names: dict[str, Strings] = {}
        for row in self._state.query("SELECT name, image_id FROM refs ORDER BY name"):
            names.setdefault(row["image_id"], []).append(row["name"])
        rows = self._state.query(f"SELECT {_COLUMNS} FROM images ORDER BY created_ns DESC, id")  # noqa: S608
        return [self._image(row, tuple(names.get(row["id"], ())), verify=False) for row in rows]

    def blobs(self) -> set[str]:
        """Return the blobs that belong to some image."""
        rows = self._state.query("SELECT id, manifest_digest FROM images")
        return {digest for row in rows for digest in (row["id"], row["manifest_digest"])}

    def config(self, image_id: str) -> str:
        """Return an image's config as it was loaded."""
        rows = self._state.query("SELECT config FROM images WHERE id = ?", (image_id,))
        return str(rows[0]["config"])

    def _image(self, row: sqlite3.Row, names: tuple[str, ...], *, verify: bool = True) -> Image:
        what = f"image {names[0] if names else row['id']}"
        data: dict[str, Any] = decode(row["config"])
        diff_ids = tuple(decode(row["diff_ids"]))
        layers = [self._files.layer(diff_id) for diff_id in diff_ids]
        return Image(
            id=row["id"],
            digest=row["manifest_digest"],
            names=names,
            diff_ids=diff_ids,
            layers=visible(layers, what) if verify else tuple(layers),
            size_bytes=row["size_bytes"],
            created=data.get("created") or EPOCH,
            architecture=data.get("architecture") or "",
            os=data.get("os") or "linux",
            config=image_config(data),
        )

    # --- removing ---

    def remove(self, cursor: sqlite3.Cursor, image_id: str) -> Strings:
        """Delete an image's rows inside the caller's transaction; return the layers nobody needs any more."""
        rows = cursor.execute("SELECT diff_ids FROM images WHERE id = ?", (image_id,)).fetchall()
        cursor.execute("DELETE FROM refs WHERE image_id = ?", (image_id,))
        cursor.execute("DELETE FROM images WHERE id = ?", (image_id,))
        needed = needed_layers(cursor)
        unneeded = [one for one in dict.fromkeys(decode(rows[0]["diff_ids"])) if one not in needed] if rows else []
        cursor.executemany("DELETE FROM layers WHERE diff_id = ?", [(one,) for one in unneeded])
        return list(reversed(unneeded))


def needed_layers(cursor: sqlite3.Cursor) -> set[str]:
    """Return the layers some image names: the reference count is recomputed, never stored."""
    rows = cursor.execute("SELECT diff_ids FROM images").fetchall()
    return {diff_id for row in rows for diff_id in decode(row["diff_ids"])}


def visible(layers: list[HostPath], what: str) -> tuple[HostPath, ...]:
    """Return the layers from the highest whose root is opaque on, having made sure that all are there.

    Overlayfs does not look at the root of a layer for opaqueness, so the chain is cut here.
    """
    lowest = 0
    for number, path in enumerate(layers):
        try:
            if os.getxattr(path, OPAQUE) == YES:
                lowest = number
        except FileNotFoundError as exc:
            raise ImageError(f"{what}: layer {path} is missing", hint="pe system check --repair") from exc
        except OSError:
            continue  # ENODATA: the common case
    return tuple(layers[lowest:])


def _total(cursor: sqlite3.Cursor, diff_ids: Iterable[str]) -> int:
    sizes = {row["diff_id"]: row["size_bytes"] for row in cursor.execute("SELECT diff_id, size_bytes FROM layers")}
    return sum(sizes.get(diff_id, 0) for diff_id in diff_ids)
